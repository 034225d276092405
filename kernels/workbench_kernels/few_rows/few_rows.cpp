// out = rows @ weight.T. The weights stand as the model has them, [outputs, inputs], so nothing is packed or copied.

#include "products.hpp"

namespace {

template <class T>
void product(const T* rows, const T* weight, T* out, long count, long inputs, long outputs, long threads) {
    together(threads, [&](const Session& session) {
        const Cut cut = Cut::of(count, inputs, outputs, sizeof(T), UNIT, session.threads());
        each(session, cut, count, outputs, [&](long row, long some, long first, long end) {
            pieces(rows + row * inputs, weight, some, inputs, first, end, cut.piece, outputs,
                   [&](long r, long from) { return out + (row + r) * outputs + from; }, [](long, int, long, long) {});
        });
    });
}

// The products with some of the outputs alone, `places` (increasing), whose weights are read where they stand: runs of
// neighbours are pieces.
template <class T>
void some_products(const T* rows, const T* weight, const long* places, T* out, long count, long inputs, long outputs,
                   long threads) {
    together(threads, [&](const Session& session) {
        const Cut cut = Cut::of(count, inputs, outputs, sizeof(T), UNIT, session.threads());
        each(session, cut, count, outputs, [&](long row, long some, long first, long end) {
            for (long from = first, to; from < end; from = to) {
                for (to = from + 1; to < end && places[to] == places[to - 1] + 1;) to++;
                const T* next = weight + places[to < outputs ? to : from] * inputs;
                pieces(rows + row * inputs, weight + places[from] * inputs, some, inputs, 0, to - from, to - from, outputs,
                       [&](long r, long at) { return out + (row + r) * outputs + from + at; },
                       [](long, int, long, long) {}, next);
            }
        });
    });
}

}  // namespace

extern "C" void few_rows_some_float32(const void* rows, const void* weight, const void* places, void* out, long count,
                                      long inputs, long outputs, long threads) {
    some_products(static_cast<const float*>(rows), static_cast<const float*>(weight), static_cast<const long*>(places),
                  static_cast<float*>(out), count, inputs, outputs, threads);
}

extern "C" void few_rows_some_bfloat16(const void* rows, const void* weight, const void* places, void* out, long count,
                                       long inputs, long outputs, long threads) {
    some_products(static_cast<const BFloat16*>(rows), static_cast<const BFloat16*>(weight),
                  static_cast<const long*>(places), static_cast<BFloat16*>(out), count, inputs, outputs, threads);
}

extern "C" void few_rows_float32(const void* rows, const void* weight, void* out, long count, long inputs, long outputs,
                                 long threads) {
    product(static_cast<const float*>(rows), static_cast<const float*>(weight), static_cast<float*>(out), count, inputs,
            outputs, threads);
}

extern "C" void few_rows_bfloat16(const void* rows, const void* weight, void* out, long count, long inputs, long outputs,
                                  long threads) {
    product(static_cast<const BFloat16*>(rows), static_cast<const BFloat16*>(weight), static_cast<BFloat16*>(out), count,
            inputs, outputs, threads);
}

extern "C" const char* few_rows_instructions() { return INSTRUCTIONS; }
