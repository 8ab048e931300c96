#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// AdEMAMix. Pagliardini, Ablin & Grangier (2024), Algorithm 1, https://arxiv.org/abs/2409.03137
struct ademamix {
    static constexpr Names hyper{"lr", "beta1", "beta2", "beta3", "alpha", "t_alpha", "t_beta3", "eps", "weight_decay"};
    static constexpr Names state{"m1", "m2", "v"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double beta3, double alpha, double t_alpha,
                   double t_beta3, double eps, double weight_decay) {
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        const double mixed = t < t_alpha ? t / t_alpha * alpha : alpha;
        double slow = beta3;
        if (t < t_beta3) {  // the half-life grows linearly from that of beta1
            const double part = t / t_beta3;
            const double half_life = (1 - part) * (log(0.5) / log(beta1)) + part * (log(0.5) / log(beta3));
            const double decay = half_life > 0 ? power(0.5, 1 / half_life) : 0;
            if (decay < beta3) slow = decay;
        }
        return [keep = T(1 - lr * weight_decay), step1 = T(lr / bias1), step2 = T(lr * mixed), b1 = T(beta1),
                c1 = T(1 - beta1), b2 = T(beta2), c2 = T(1 - beta2), b3 = T(slow), c3 = T(1 - slow),
                root = T(1 / std::sqrt(bias2)), eps = T(eps)](T& p, T g, T& m1, T& m2, T& v) {
            m1 = b1 * m1 + c1 * g;
            m2 = b3 * m2 + c3 * g;
            v = b2 * v + c2 * (g * g);
            p = keep * p - (step1 * m1 + step2 * m2) / (root * sqrt(v) + eps);
        };
    }
};

}  // namespace
}  // namespace schuss
