// The norm of rows; what a row becomes does not depend on the rows beside it.

#include "norms.hpp"
#include "team.hpp"

namespace {

template <class T, class W>
void norm(const T* rows, const W* weight, T* out, long count, long width, float eps, bool late, long threads) {
    each_row(threads, count, std::max(1L, 40000 / width),
             [&](long r) { norm_row(rows + r * width, weight, out + r * width, width, eps, late); });
}

}  // namespace

#define NORM(NAME, T, W)                                                                                             \
    extern "C" void NAME(const void* rows, const void* weight, void* out, long count, long width, float eps, int late, \
                         long threads) {                                                                             \
        norm(static_cast<const T*>(rows), static_cast<const W*>(weight), static_cast<T*>(out), count, width, eps, late, \
             threads);                                                                                               \
    }

NORM(rms_norm_float32_float32, float, float)
NORM(rms_norm_bfloat16_bfloat16, BFloat16, BFloat16)
NORM(rms_norm_bfloat16_float32, BFloat16, float)
