/* Faults below the C library of one process: a wrong clock, a slow or failing disk, and a record of what a power loss
 * would leave. Loaded with LD_PRELOAD; JEPSEN_FAULTS names the control file.
 *
 * The clock: only CLOCK_REALTIME is wrong. CLOCK_MONOTONIC is not, as on real machines.
 * Power loss: after each successful fsync or fdatasync the file's length before the call is kept in the attribute
 * `user.jepsen.synced` of the file, where it survives renames. What lies beyond was never promised by the disk.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define SYNCED "user.jepsen.synced"

/* As `Control` in preload.rs reads and writes it. */
struct control {
    int64_t offset_ns, anchor_ns, drift_ppm; /* written by the harness */
    uint64_t delay_us, fail;
    uint64_t syncs, delayed, failed, clock_reads; /* written here */
};

static volatile struct control *control;

static int real_clock(clockid_t clock, struct timespec *at) {
    static int (*next)(clockid_t, struct timespec *);
    if (!next) next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    return next ? next(clock, at) : (int)syscall(SYS_clock_gettime, clock, at);
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("JEPSEN_FAULTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (page != MAP_FAILED) control = page;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int result = real_clock(clock, at);
    if (result || !control || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return result;
    int64_t wrong = control->offset_ns;
    if (control->drift_ppm) {
        struct timespec steady;
        real_clock(CLOCK_MONOTONIC, &steady);
        int64_t since = (int64_t)steady.tv_sec * 1000000000 + steady.tv_nsec - control->anchor_ns;
        wrong += since / 1000000 * control->drift_ppm;
    }
    if (wrong) {
        int64_t shown = (int64_t)at->tv_sec * 1000000000 + at->tv_nsec + wrong;
        at->tv_sec = shown / 1000000000;
        at->tv_nsec = shown % 1000000000;
        __atomic_fetch_add(&control->clock_reads, 1, __ATOMIC_RELAXED);
    }
    return 0;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    (void)zone;
    struct timespec shown;
    int result = clock_gettime(CLOCK_REALTIME, &shown);
    at->tv_sec = shown.tv_sec;
    at->tv_usec = shown.tv_nsec / 1000;
    return result;
}

time_t time(time_t *at) {
    struct timespec shown;
    clock_gettime(CLOCK_REALTIME, &shown);
    if (at) *at = shown.tv_sec;
    return shown.tv_sec;
}

static int sync_with(const char *name, int fd) {
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    if (!control) return next(fd);
    struct stat before;
    int regular = fstat(fd, &before) == 0 && S_ISREG(before.st_mode);
    __atomic_fetch_add(&control->syncs, 1, __ATOMIC_RELAXED);
    if (control->delay_us) {
        struct timespec rest = {(time_t)(control->delay_us / 1000000), (long)(control->delay_us % 1000000) * 1000};
        nanosleep(&rest, NULL);
        __atomic_fetch_add(&control->delayed, 1, __ATOMIC_RELAXED);
    }
    if (control->fail) {
        __atomic_fetch_add(&control->failed, 1, __ATOMIC_RELAXED);
        errno = EIO;
        return -1;
    }
    int result = next(fd);
    if (result == 0 && regular) {
        uint64_t synced = (uint64_t)before.st_size;
        if (fsetxattr(fd, SYNCED, &synced, sizeof synced, 0) != 0) abort(); /* or the harness would drop what is safe */
    }
    return result;
}

int fsync(int fd) { return sync_with("fsync", fd); }
int fdatasync(int fd) { return sync_with("fdatasync", fd); }

static int truncate_with(const char *name, int fd, off_t length) {
    int (*next)(int, off_t) = (int (*)(int, off_t))dlsym(RTLD_NEXT, name);
    int result = next(fd, length);
    uint64_t synced;
    /* Bytes that come where synced ones were cut off are not synced. */
    if (result == 0 && fgetxattr(fd, SYNCED, &synced, sizeof synced) == sizeof synced && synced > (uint64_t)length) {
        synced = (uint64_t)length;
        fsetxattr(fd, SYNCED, &synced, sizeof synced, 0);
    }
    return result;
}

int ftruncate(int fd, off_t length) { return truncate_with("ftruncate", fd, length); }
int ftruncate64(int fd, off_t length) { return truncate_with("ftruncate64", fd, length); }
