// Threads that share pieces of work within one parallel region of OpenMP, whose threads torch's own operations use too:
// two sets of threads would wait spinning for work and take the cores from one another.
//
// Whoever opened the region takes chunks itself until none is left, and waits only for those that others have taken.
// Which thread computes a chunk changes no result.
#pragma once

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// One round of waiting; after many the processor is given to somebody else.
inline void breathe(long rounds) {
    if (rounds >= 2000) {
        sched_yield();
        return;
    }
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

class Team {
  public:
    explicit Team(long threads) : threads(threads), parts_(std::min(threads, PARTS)) {}

    const long threads;

    // Chunks 0 to `chunks`, by whoever of the threads comes.
    void share(long chunks, void (*work)(const void*, long), const void* context) {
        work_ = work, context_ = context;
        pending_.store(chunks, std::memory_order_relaxed);
        // Neighbouring chunks to the same thread: what it reads ahead is then its own.
        for (long part = 0; part < parts_; part++)
            left_[part].chunks.store(Left::of(chunks * part / parts_, chunks * (part + 1) / parts_),
                                     std::memory_order_release);
        called_.fetch_add(1, std::memory_order_release);
        while (take(0)) {}
        for (long rounds = 0; pending_.load(std::memory_order_acquire) > 0; rounds++) breathe(rounds);
    }

    // Take part until the region is closed.
    void help(long mine) {
        uint64_t seen = 0;
        for (long rounds = 0;; rounds++) {
            const uint64_t called = called_.load(std::memory_order_acquire);
            if (called == CLOSED) return;
            if (called != seen) {
                seen = called, rounds = 0;
                while (take(mine)) {}
            }
            breathe(rounds);
        }
    }

    void close() { called_.store(CLOSED, std::memory_order_release); }

  private:
    static constexpr uint64_t CLOSED = ~uint64_t{0};
    // Parts that chunks are dealt to; more threads take from these.
    static constexpr long PARTS = 64;

    // The chunks of a part that nobody has taken: from the first on, for its own thread, or from the last back. All in
    // one number, so that whoever takes one finds it as it is now.
    struct alignas(64) Left {
        static uint64_t of(uint64_t first, uint64_t end) { return first << 32 | end; }
        std::atomic<uint64_t> chunks{0};
    };

    // Compute a chunk of one's own part, or of another's; false if none is left.
    bool take(long mine) {
        for (long i = 0; i < parts_; i++) {
            const bool own = i == 0 && mine < parts_;
            std::atomic<uint64_t>& left = left_[(mine + i) % parts_].chunks;
            uint64_t seen = left.load(std::memory_order_acquire);
            for (;;) {
                const uint64_t first = seen >> 32, end = static_cast<uint32_t>(seen);
                if (first >= end) break;
                const uint64_t rest = own ? Left::of(first + 1, end) : Left::of(first, end - 1);
                if (left.compare_exchange_weak(seen, rest, std::memory_order_acq_rel, std::memory_order_acquire)) {
                    work_(context_, static_cast<long>(own ? first : end - 1));
                    pending_.fetch_sub(1, std::memory_order_release);
                    return true;
                }
            }
        }
        return false;
    }

    const long parts_;
    void (*work_)(const void*, long) = nullptr;
    const void* context_ = nullptr;
    Left left_[PARTS];
    alignas(64) std::atomic<uint64_t> called_{0};
    alignas(64) std::atomic<long> pending_{0};
};

// The team of a region, or the caller alone.
class Session {
  public:
    explicit Session(Team* team = nullptr) : team_(team) {}

    long threads() const { return team_ ? team_->threads : 1; }

    template <class Work>
    void run(long chunks, const Work& work) const {
        if (!team_ || chunks < 2) {
            for (long chunk = 0; chunk < chunks; chunk++) work(chunk);
            return;
        }
        team_->share(
            chunks, [](const void* work, long chunk) { (*static_cast<const Work*>(work))(chunk); }, &work);
    }

  private:
    Team* team_;
};

// body(session), with so many threads.
template <class Body>
void together(long threads, const Body& body) {
#ifdef _OPENMP
    if (threads > 1 && !omp_in_parallel()) {
        Team team(threads);
#pragma omp parallel num_threads(threads)
        {
            if (omp_get_thread_num() == 0) {
                body(Session(&team));
                team.close();
            } else {
                team.help(omp_get_thread_num());
            }
        }
        return;
    }
#endif
    body(Session());
}

// work(row) for all of `count` rows, `few` of them in a chunk.
template <class Work>
void each_row(const Session& session, long count, long few, const Work& work) {
    session.run((count + few - 1) / few, [&](long chunk) {
        for (long row = chunk * few; row < std::min(count, (chunk + 1) * few); row++) work(row);
    });
}

// The same in a region of its own; a second thread for fewer than `few` rows costs more than it gains.
template <class Work>
void each_row(long threads, long count, long few, const Work& work) {
    together(count > few ? threads : 1, [&](const Session& session) { each_row(session, count, few, work); });
}

}  // namespace
