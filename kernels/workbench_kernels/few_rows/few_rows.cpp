// out = rows @ weight.T: every weight is read from memory once, in order, and meets all rows while it is in the cache. The weights stand as the model has them, [outputs, inputs], so nothing is packed or copied.

#include "products.hpp"

namespace {

// Bytes of weights that all groups of rows pass over before the next ones are read; they stay in the second-level cache.
constexpr long HELD = 262144;

template <class T>
void part(const T* rows, const T* weight, T* out, long count, long inputs, long outputs, long first, long end) {
    const long block = std::max(16L, HELD / static_cast<long>(inputs * sizeof(T)) / 16 * 16);
    const long groups = (count + GROUP - 1) / GROUP;
    for (long from = first; from < end; from += block) {
        const long to = std::min(from + block, end);
        for (long g = 0, row = 0; g < groups; g++) {
            // Groups of nearly the same size: 9 rows are 5 and 4, not 8 and 1.
            const int size = static_cast<int>((count - row + groups - g - 1) / (groups - g));
            const T* mine = rows + row * inputs;
            if (g == 0)
                pass<T, T, true>(size, mine, weight, out + row * outputs, inputs, outputs, from, to);
            else
                pass<T, T, false>(size, mine, weight, out + row * outputs, inputs, outputs, from, to);
            row += size;
        }
    }
}

template <class T>
void product(const T* rows, const T* weight, T* out, long count, long inputs, long outputs) {
    const long workers = threads();
    const long share = ((outputs + workers - 1) / workers + 15) / 16 * 16;
#pragma omp parallel for num_threads(workers) if (workers > 1)
    for (long thread = 0; thread < workers; thread++) {
        const long first = std::min(share * thread, outputs);
        part(rows, weight, out, count, inputs, outputs, first, std::min(first + share, outputs));
    }
}

}  // namespace

extern "C" void few_rows_float32(const void* rows, const void* weight, void* out, long count, long inputs, long outputs) {
    product(static_cast<const float*>(rows), static_cast<const float*>(weight), static_cast<float*>(out), count, inputs,
            outputs);
}

extern "C" void few_rows_bfloat16(const void* rows, const void* weight, void* out, long count, long inputs, long outputs) {
    product(static_cast<const BFloat16*>(rows), static_cast<const BFloat16*>(weight), static_cast<BFloat16*>(out), count,
            inputs, outputs);
}

extern "C" const char* few_rows_instructions() { return INSTRUCTIONS; }
