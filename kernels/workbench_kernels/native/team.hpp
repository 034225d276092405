// A team of threads that share pieces of work, made at the first call and kept.
//
// Whoever calls takes chunks itself until none is left, and waits only for those that others have taken: a helper that
// the machine does not let run holds nobody up. Which thread computes a chunk changes no result.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

inline void breathe() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

class Team {
  public:
    std::mutex busy;

    // Chunks 0 to `chunks`, by whoever of `threads` comes; the caller holds `busy`.
    void share(long chunks, long threads, void (*work)(const void*, long), const void* context) {
        grow(threads - 1);
        work_ = work, context_ = context;
        wanted_.store(threads - 1, std::memory_order_relaxed);
        pending_.store(chunks, std::memory_order_relaxed);
        const long parts = parts_ = std::min(threads, PARTS);
        // Neighbouring chunks to the same thread: what it reads ahead is then its own.
        for (long part = 0; part < parts; part++)
            left_[part].chunks.store(Left::of(chunks * part / parts, chunks * (part + 1) / parts));
        called_.fetch_add(1);
        if (asleep_.load() > 0) {
            { const std::lock_guard<std::mutex> guard(sleep_); }
            wake_.notify_all();
        }
        while (take(0)) {}
        for (long spins = 0; pending_.load(std::memory_order_acquire) > 0; spins++)
            spins < PATIENT ? breathe() : static_cast<void>(sched_yield());
    }

  private:
    // Rounds of waiting before the processor is given to somebody else.
    static constexpr long PATIENT = 2000;
    // How long a helper looks for work before it sleeps.
    static constexpr std::chrono::microseconds AWAKE{200};

    // The chunks of a part that nobody has taken: from the first on, for its own thread, or from the last back. All in
    // one number, so that whoever takes one finds it as it is now.
    struct alignas(64) Left {
        static uint64_t of(uint64_t first, uint64_t end) { return first << 32 | end; }
        std::atomic<uint64_t> chunks{0};
    };

    // Compute a chunk of one's own part, or of another's; false if none is left.
    bool take(long mine) {
        const long parts = parts_.load(std::memory_order_relaxed);
        for (long i = 0; i < parts; i++) {
            const bool own = i == 0 && mine < parts;
            std::atomic<uint64_t>& left = left_[(mine + i) % parts].chunks;
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

    // Work of a call that a helper has not looked at yet.
    bool called(long index, uint64_t seen) const {
        return index < wanted_.load(std::memory_order_relaxed) && called_.load(std::memory_order_acquire) != seen;
    }

    void help(long index) {
        uint64_t seen = 0;
        auto until = std::chrono::steady_clock::now() + AWAKE;
        for (;;) {
            for (int i = 0; i < 64; i++) {
                if (called(index, seen)) {
                    seen = called_.load(std::memory_order_acquire);
                    while (take(index + 1)) {}
                    until = std::chrono::steady_clock::now() + AWAKE;
                }
                breathe();
            }
            if (std::chrono::steady_clock::now() < until) continue;
            std::unique_lock<std::mutex> guard(sleep_);
            asleep_.fetch_add(1);
            wake_.wait(guard, [&] { return called(index, seen); });
            asleep_.fetch_sub(1);
        }
    }

    void grow(long helpers) {
        for (; helpers_ < helpers; helpers_++) try {
                std::thread([this, index = helpers_] { help(index); }).detach();
            } catch (const std::system_error&) {
                return;  // no more threads are to be had: the caller does the work
            }
    }

    // Parts that chunks are dealt to; more threads take from these.
    static constexpr long PARTS = 64;

    void (*work_)(const void*, long) = nullptr;
    const void* context_ = nullptr;
    long helpers_ = 0;
    std::mutex sleep_;
    std::condition_variable wake_;
    Left left_[PARTS];
    std::atomic<long> parts_{1};
    alignas(64) std::atomic<uint64_t> called_{0};
    alignas(64) std::atomic<long> pending_{0};
    alignas(64) std::atomic<long> wanted_{0};
    std::atomic<int> asleep_{0};
};

// Never destroyed: helpers may look at it until the process ends. A forked process has no helpers, and makes a new one.
inline Team*& team() {
    static Team* team = [] {
        pthread_atfork(nullptr, nullptr, [] { ::team() = new Team; });
        return new Team;
    }();
    return team;
}

// The team, for as long as this stands; or the caller alone, while another thread of the process has it.
class Session {
  public:
    explicit Session(long threads) : team_(threads > 1 ? team() : nullptr), threads_(threads) {
        if (team_ && !team_->busy.try_lock()) team_ = nullptr;
    }
    ~Session() {
        if (team_) team_->busy.unlock();
    }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    long threads() const { return team_ ? threads_ : 1; }

    template <class Work>
    void run(long chunks, const Work& work) const {
        if (!team_ || chunks < 2) {
            for (long chunk = 0; chunk < chunks; chunk++) work(chunk);
            return;
        }
        team_->share(
            chunks, threads_, [](const void* work, long chunk) { (*static_cast<const Work*>(work))(chunk); }, &work);
    }

  private:
    Team* team_;
    long threads_;
};

}  // namespace
