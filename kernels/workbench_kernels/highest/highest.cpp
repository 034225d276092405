// The highest number of every row and where it stands first; NaN is higher than all.

#include "team.hpp"
#include "vectors.hpp"

namespace {

template <class T>
void highest_of(const T* row, long width, float* value, int64_t* index) {
    float best = -__builtin_inff();
    long at = 0, where = 0;
    if (width >= LANES) {
        Floats most = load(row);
        Words place{}, now{}, nan = (Words)(most != most);
        for (int lane = 0; lane < LANES; lane++) now[lane] = lane;
        place = now;
        for (at = LANES; at + LANES <= width; at += LANES) {
            const Floats x = load(row + at);
            now += LANES;
            const Words higher = (Words)(x > most);
            most = select(higher, x, most);
            place = (now & higher) | (place & ~higher);
            nan |= (Words)(x != x);
        }
        float each[LANES];
        store(most, each);
        bool any = false;
        for (int lane = 0; lane < LANES; lane++) {
            const long mine = place[lane];
            if (each[lane] > best || (each[lane] == best && mine < where)) best = each[lane], where = mine;
            any |= nan[lane] != 0;
        }
        if (any) at = 0;
    }
    for (; at < width; at++) {
        float x[LANES];
        store(load_some(row + at, 1), x);
        if (x[0] > best) best = x[0], where = at;
        if (x[0] != x[0]) {
            best = x[0], where = at;
            break;
        }
    }
    *value = best, *index = where;
}

template <class T>
void highest(const T* rows, float* values, int64_t* indices, long count, long width, long threads) {
    const auto one = [&](long row) { highest_of(rows + row * width, width, values + row, indices + row); };
    together(count > 1 ? threads : 1, [&](const Session& session) { session.run(count, one); });
}

}  // namespace

extern "C" void highest_float32(const void* rows, void* values, void* indices, long count, long width, long threads) {
    highest(static_cast<const float*>(rows), static_cast<float*>(values), static_cast<int64_t*>(indices), count, width,
            threads);
}

extern "C" void highest_bfloat16(const void* rows, void* values, void* indices, long count, long width, long threads) {
    highest(static_cast<const BFloat16*>(rows), static_cast<float*>(values), static_cast<int64_t*>(indices), count, width,
            threads);
}
