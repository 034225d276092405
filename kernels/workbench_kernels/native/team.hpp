// A team of threads that share pieces of work, made at the first call and kept.
//
// Whoever calls takes chunks itself until none is left, and waits only for those that others have taken: a helper that
// the machine does not let run holds nobody up. Which thread computes a chunk changes no result.
#pragma once

#include <pthread.h>
#include <sched.h>

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
        work_ = work, context_ = context, chunks_ = chunks;
        wanted_.store(threads - 1, std::memory_order_relaxed);
        pending_.store(chunks, std::memory_order_relaxed);
        // Left in the low half, so that a chunk is taken and told from those of an earlier call in one step.
        word_.store(++generation_ << 32 | static_cast<uint64_t>(chunks));
        if (asleep_.load() > 0) {
            { const std::lock_guard<std::mutex> guard(sleep_); }
            wake_.notify_all();
        }
        while (take()) {}
        for (long spins = 0; pending_.load(std::memory_order_acquire) > 0; spins++)
            spins < PATIENT ? breathe() : static_cast<void>(sched_yield());
    }

  private:
    // Rounds of waiting before the processor is given to somebody else.
    static constexpr long PATIENT = 2000;
    // How long a helper looks for work before it sleeps.
    static constexpr std::chrono::microseconds AWAKE{200};

    bool take() {
        uint64_t seen = word_.load(std::memory_order_acquire);
        while (const uint32_t left = static_cast<uint32_t>(seen))
            if (word_.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
                work_(context_, chunks_ - left);
                pending_.fetch_sub(1, std::memory_order_release);
                return true;
            }
        return false;
    }

    bool called(long index) const {
        return index < wanted_.load(std::memory_order_relaxed) && static_cast<uint32_t>(word_.load());
    }

    void help(long index) {
        auto until = std::chrono::steady_clock::now() + AWAKE;
        for (;;) {
            for (int i = 0; i < 64; i++) {
                bool worked = false;
                while (called(index) && take()) worked = true;
                if (worked) until = std::chrono::steady_clock::now() + AWAKE;
                breathe();
            }
            if (std::chrono::steady_clock::now() < until) continue;
            std::unique_lock<std::mutex> guard(sleep_);
            asleep_.fetch_add(1);
            wake_.wait(guard, [&] { return called(index); });
            asleep_.fetch_sub(1);
            until = std::chrono::steady_clock::now() + AWAKE;
        }
    }

    void grow(long helpers) {
        for (; helpers_ < helpers; helpers_++) try {
                std::thread([this, index = helpers_] { help(index); }).detach();
            } catch (const std::system_error&) {
                return;  // no more threads are to be had: the caller does the work
            }
    }

    void (*work_)(const void*, long) = nullptr;
    const void* context_ = nullptr;
    long chunks_ = 0, helpers_ = 0;
    uint64_t generation_ = 0;
    std::mutex sleep_;
    std::condition_variable wake_;
    alignas(64) std::atomic<uint64_t> word_{0};
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
