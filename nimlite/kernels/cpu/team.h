// A team of threads that share loops.
//
// Not OpenMP: its threads wait for each other at every loop, and either sleep there, which costs
// more than most loops of a decode, or spin, which costs whole time slices once two of them share a
// processor with each other or with a stranger. Here whoever comes takes the next part of the loop,
// and nobody waits for a thread that has taken none.
#pragma once
#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "range.h"

namespace nimlite {

class Team {
  public:
    // The thread that calls `share` is one of the team.
    explicit Team(int32_t num_threads);
    ~Team();

    int32_t num_threads() const { return int32_t(workers_.size()) + 1; }

    // Held by the thread that shares loops.
    std::mutex& mutex() { return mutex_; }

    // Calls body(range) for `num_parts` equal parts of 0 … count, on any threads in any order, and
    // returns when all are done.
    template <class Body>
    void share(int64_t count, int64_t num_parts, const Body& body) {
        const auto call = [](const void* body, Range range) { (*(const Body*)body)(range); };
        run({call, &body, count, num_parts});
    }

  private:
    struct Loop {
        void (*call)(const void* body, Range);
        const void* body;
        int64_t count, num_parts;
    };

    void run(const Loop& loop);
    void take_parts();
    void serve();

    std::mutex mutex_;
    Loop loop_ = {};  // read only by who has taken a part, until that is done
    alignas(64) std::atomic<int64_t> parts_left_ = 0;
    alignas(64) std::atomic<int64_t> parts_done_ = 0;
    alignas(64) std::atomic<uint32_t> calls_ = 0;  // rises with each loop
    std::atomic<bool> ending_ = false;
    std::vector<std::thread> workers_;
};

}  // namespace nimlite
