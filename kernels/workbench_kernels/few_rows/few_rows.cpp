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

}  // namespace

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
