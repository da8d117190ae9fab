// Waiting is in three steps. On a quiet machine the others come within a microsecond: spin. They
// may need this very processor: yield it. There is nothing to do: sleep.
#include "team.h"

namespace nimlite {
namespace {

constexpr int kSpins = 50;
constexpr int kYields = 100;  // some 50 microseconds

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

struct Patience {
    int tries = 0;

    // False when it has run out.
    bool wait() {
        if (tries++ < kSpins)
            relax();
        else
            std::this_thread::yield();
        return tries < kSpins + kYields;
    }
};

}  // namespace

Team::Team(int32_t num_threads) {
    for (int32_t i = 1; i < num_threads; ++i) workers_.emplace_back([this] { serve(); });
}

Team::~Team() {
    ending_ = true;
    ++calls_;
    calls_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void Team::run(const Loop& loop) {
    loop_ = loop;
    parts_done_.store(0, std::memory_order_relaxed);
    parts_left_.store(loop.num_parts, std::memory_order_release);
    ++calls_;
    calls_.notify_all();
    take_parts();
    for (Patience patience; parts_done_.load(std::memory_order_acquire) < loop.num_parts;)
        patience.wait();
}

void Team::take_parts() {
    int64_t left = parts_left_.load(std::memory_order_relaxed);
    while (left > 0) {
        if (!parts_left_.compare_exchange_weak(left, left - 1, std::memory_order_acquire))
            continue;
        const int64_t part = loop_.num_parts - left;
        loop_.call(loop_.body, {part * loop_.count / loop_.num_parts,
                                (part + 1) * loop_.count / loop_.num_parts});
        parts_done_.fetch_add(1, std::memory_order_release);
        left = parts_left_.load(std::memory_order_relaxed);
    }
}

void Team::serve() {
    while (true) {
        const uint32_t seen = calls_;
        if (ending_) return;
        take_parts();
        for (Patience patience; calls_ == seen;)
            if (!patience.wait()) calls_.wait(seen);
    }
}

}  // namespace nimlite
