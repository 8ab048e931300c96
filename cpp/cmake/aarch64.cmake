# 64-bit ARM, cross-compiled by Debian's g++-aarch64-linux-gnu. PYTHON_ROOT holds the files of an arm64 Python (.ci/aarch64 makes
# one), which also runs what is built: qemu-aarch64 -L PYTHON_ROOT.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

set(PYTHON_ROOT "" CACHE PATH "Root of an arm64 Python with its headers")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES PYTHON_ROOT)
set(CMAKE_FIND_ROOT_PATH ${PYTHON_ROOT})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
# Debian's pyconfig.h includes the one of the architecture from here.
include_directories(SYSTEM ${PYTHON_ROOT}/usr/include)

# No Python of this architecture runs here that could be asked.
set(PYBIND11_USE_CROSSCOMPILING ON)
set(PYTHON_MODULE_EXTENSION $ENV{SETUPTOOLS_EXT_SUFFIX})
