/* Random numbers and clocks that are the same in each process, thread by thread. Preloaded into a simulation, whose libraries
 * take from the machine what no seed of ours reaches: keys of hash maps, the order in which Tokio wakes those who wait for one
 * watch, the time after which HTTP/2 forgets a stream that was reset. */

#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static __thread uint64_t state;

/* SplitMix64 */
static uint64_t next(void) {
  uint64_t word = state += 0x9e3779b97f4a7c15u;
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
  word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
  return word ^ (word >> 31);
}

static void fill(unsigned char *to, size_t length) {
  while (length > 0) {
    uint64_t word = next();
    size_t part = length < sizeof word ? length : sizeof word;
    memcpy(to, &word, part);
    to += part;
    length -= part;
  }
}

ssize_t getrandom(void *to, size_t length, unsigned flags) {
  (void)flags;
  fill(to, length);
  return (ssize_t)length;
}

int getentropy(void *to, size_t length) {
  fill(to, length);
  return 0;
}

/* Stands still, but for a nanosecond at each look: what a simulation waits for is its own time. The first thread, which only
 * waits for the one that simulates, keeps the machine's clock. */
int clock_gettime(clockid_t clock, struct timespec *to) {
  static __thread pid_t thread;
  static __thread long looks;
  if (thread == 0) thread = (pid_t)syscall(SYS_gettid);
  if (thread == getpid()) return (int)syscall(SYS_clock_gettime, clock, to);
  looks += 1;
  to->tv_sec = 1000000000 + looks / 1000000000;
  to->tv_nsec = looks % 1000000000;
  return 0;
}
