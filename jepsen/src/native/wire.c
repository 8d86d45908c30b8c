/* A cable between two network namespaces that may be slow and may lose: for kernels without `tc netem`, and the same on
 * all of them. One tap device in the namespace this runs in, one in the namespace whose file is given; frames are carried
 * between the two, late and with losses as the control file says. Ends with its standard input.
 *
 *   wire NAMESPACE-FILE TAP-HERE TAP-THERE CONTROL-FILE SEED
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* As `Wire` in net.rs reads and writes it. */
struct control {
    uint64_t delay_us, jitter_us, loss_ppm; /* written by the harness */
    uint64_t carried, delayed, lost;        /* written here */
};

enum { FRAME = 2048, QUEUE = 8192 };

struct frame {
    uint64_t due_us;
    uint16_t length;
    unsigned char bytes[FRAME];
};

/* Frames of one direction, oldest first. What finds it full is lost, as at a switch. */
struct queue {
    struct frame *frames;
    uint64_t first, next;
};

static uint64_t now_us(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000 + at.tv_nsec / 1000;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int tap(const char *name) {
    struct ifreq request;
    memset(&request, 0, sizeof request);
    request.ifr_flags = IFF_TAP | IFF_NO_PI;
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0) fail("tap");
    return fd;
}

static uint64_t state;

static uint64_t chance(uint64_t below) { /* xorshift64* */
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return below ? (state * 2685821657736338717ULL) % below : 0;
}

static void take(int from, struct queue *queue, volatile struct control *control) {
    for (int many = 0; many < 64; many++) {
        unsigned char bytes[FRAME];
        ssize_t length = read(from, bytes, sizeof bytes);
        if (length <= 0) return;
        if (chance(1000000) < control->loss_ppm || queue->next - queue->first == QUEUE) {
            control->lost++;
            continue;
        }
        uint64_t late = control->delay_us + chance(control->jitter_us);
        uint64_t due = now_us() + late;
        /* Late, but in order: what overtakes would look like loss to TCP. */
        if (queue->next > queue->first) {
            uint64_t before = queue->frames[(queue->next - 1) % QUEUE].due_us;
            if (due < before) due = before;
        }
        struct frame *frame = &queue->frames[queue->next++ % QUEUE];
        frame->due_us = due;
        frame->length = (uint16_t)length;
        memcpy(frame->bytes, bytes, (size_t)length);
        if (late) control->delayed++;
    }
}

static void give(int to, struct queue *queue, volatile struct control *control) {
    uint64_t now = now_us();
    while (queue->first < queue->next && queue->frames[queue->first % QUEUE].due_us <= now) {
        struct frame *frame = &queue->frames[queue->first++ % QUEUE];
        if (write(to, frame->bytes, frame->length) < 0) control->lost++;
        else control->carried++;
    }
}

int main(int count, char **words) {
    if (count != 6) return 2;
    state = strtoull(words[5], NULL, 10) * 2 + 1;
    int file = open(words[4], O_RDWR | O_CLOEXEC);
    volatile struct control *control = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file < 0 || control == MAP_FAILED) fail("control file");
    int here = tap(words[2]);
    int space = open(words[1], O_RDONLY | O_CLOEXEC);
    if (space < 0 || setns(space, CLONE_NEWNET) < 0) fail("namespace");
    int there = tap(words[3]);
    struct queue out = {calloc(QUEUE, sizeof(struct frame)), 0, 0}, in = {calloc(QUEUE, sizeof(struct frame)), 0, 0};
    if (!out.frames || !in.frames) fail("memory");
    puts("ready");
    fflush(stdout);
    for (;;) {
        uint64_t due = UINT64_MAX, now = now_us();
        if (out.first < out.next) due = out.frames[out.first % QUEUE].due_us;
        if (in.first < in.next && in.frames[in.first % QUEUE].due_us < due) due = in.frames[in.first % QUEUE].due_us;
        uint64_t wait = due == UINT64_MAX ? 1000000 : due > now ? due - now : 0;
        struct timespec rest = {(time_t)(wait / 1000000), (long)(wait % 1000000) * 1000};
        struct pollfd fds[3] = {{here, POLLIN, 0}, {there, POLLIN, 0}, {0, POLLIN, 0}};
        if (ppoll(fds, 3, &rest, NULL) < 0 && errno != EINTR) fail("poll");
        if (fds[2].revents) return 0;
        if (fds[0].revents) take(here, &out, control);
        if (fds[1].revents) take(there, &in, control);
        give(there, &out, control);
        give(here, &in, control);
    }
}
