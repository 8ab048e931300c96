/// Runs a fuzz target where there is no libFuzzer, and in several threads at once: on the files that are named, then on
/// random bytes.
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <thread>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

// Sanitizers end the program by a signal, which keeps the input.
#define SCHUSS_SANITIZER_OPTIONS "abort_on_error=1:print_stacktrace=1"
extern "C" [[gnu::visibility("default")]] const char* __asan_default_options() {
    return SCHUSS_SANITIZER_OPTIONS ":detect_stack_use_after_return=1:detect_leaks=1";
}
extern "C" [[gnu::visibility("default")]] const char* __ubsan_default_options() {
    return SCHUSS_SANITIZER_OPTIONS;
}
extern "C" [[gnu::visibility("default")]] const char* __tsan_default_options() {
    return SCHUSS_SANITIZER_OPTIONS ":halt_on_error=1:ignore_noninstrumented_modules=1";
}

namespace {

using Input = std::vector<std::uint8_t>;
constexpr std::size_t longest = 400;

thread_local const Input* current = nullptr;

/// Writes the input that a thread dies of, for the program to be run on it again.
void keep_input() {
    if (!current) return;
    if (std::FILE* const file = std::fopen("crash-input", "wb")) {
        std::fwrite(current->data(), 1, current->size(), file);
        std::fclose(file);
        std::fputs("the input is in crash-input\n", stderr);
    }
}

void run(const Input& input) {
    current = &input;
    LLVMFuzzerTestOneInput(input.data(), input.size());
    current = nullptr;
}

}  // namespace

int main(int count, char** arguments) {
    long long runs = -1, seconds = -1, seed = 1, workers = 1;
    std::vector<std::filesystem::path> files;
    for (int i = 1; i < count; ++i) {
        const std::string argument = arguments[i];
        const auto is = [&](const char* name, long long& value) {
            if (argument.rfind(name, 0) != 0) return false;
            value = std::atoll(argument.c_str() + std::strlen(name));
            return true;
        };
        // Named as libFuzzer names them.
        if (!is("-runs=", runs) && !is("-max_total_time=", seconds) && !is("-seed=", seed) && !is("-workers=", workers))
            files.emplace_back(argument);
    }
    for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL})
        std::signal(signal, [](int number) {
            keep_input();
            std::signal(number, SIG_DFL);
            std::raise(number);
        });

    for (const std::filesystem::path& file : files) {
        std::ifstream stream(file, std::ios::binary);
        if (!stream) {
            std::fprintf(stderr, "%s cannot be read\n", file.c_str());
            return 2;
        }
        run(Input(std::istreambuf_iterator<char>(stream), {}));
    }
    if (!files.empty() && runs < 0 && seconds < 0) return 0;

    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
    std::atomic<long long> done{0};
    const auto work = [&](long long worker) {
        std::mt19937_64 random{std::uint64_t(seed * 1000 + worker)};
        Input input;
        while ((runs < 0 || done < runs) && (seconds < 0 || elapsed() < double(seconds))) {
            input.resize(random() % longest);
            for (std::uint8_t& byte : input) byte = std::uint8_t(random());
            run(input);
            ++done;
        }
    };
    std::vector<std::thread> threads;
    for (long long worker = 1; worker < workers; ++worker) threads.emplace_back(work, worker);
    work(0);
    for (std::thread& thread : threads) thread.join();
    std::printf("%lld inputs in %.1f s, %.0f a second\n", done.load(), elapsed(), double(done) / elapsed());
}
