/* Counts the calls of one process by which it changes what others can see: files, folders, sockets. Preloaded, it does nothing until
   steps_begin(at, half); then the process kills itself (SIGKILL) before its call number `at`, or with `half` in its write number `at` once
   half of the bytes are written. steps_done() tells how many there were. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long done;
static volatile long fatal;
static volatile int on, in_half;
static pid_t mine;

void steps_begin(long at, int half) {
  mine = getpid(), fatal = at, in_half = half;
  atomic_store(&done, 0);
  on = 1;
}

long steps_done(void) { return atomic_load(&done); }

/* Whether this is the fatal one. */
static int reached(void) { return on && getpid() == mine && atomic_fetch_add(&done, 1) + 1 == fatal; }

static void step(void) {
  if (on && !in_half && reached()) kill(mine, SIGKILL);
}

/* Of a file or socket, which others can read; not of a terminal, or a pipe within the process. */
static int seen(int file) {
  struct stat about;
  return on && file > 2 && !fstat(file, &about) && (S_ISREG(about.st_mode) || S_ISSOCK(about.st_mode));
}

#define REAL(type, name, ...) \
  static type (*real)(__VA_ARGS__); \
  if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define PATHS(name, declared, ...) \
  int name declared { \
    static int(*real) declared; \
    if (!real) real = (int(*) declared)dlsym(RTLD_NEXT, #name); \
    step(); \
    return real(__VA_ARGS__); \
  }

PATHS(rename, (const char *a, const char *b), a, b)
PATHS(renameat, (int x, const char *a, int y, const char *b), x, a, y, b)
PATHS(renameat2, (int x, const char *a, int y, const char *b, unsigned f), x, a, y, b, f)
PATHS(unlink, (const char *a), a)
PATHS(unlinkat, (int x, const char *a, int f), x, a, f)
PATHS(mkdir, (const char *a, mode_t m), a, m)
PATHS(mkdirat, (int x, const char *a, mode_t m), x, a, m)
PATHS(rmdir, (const char *a), a)
PATHS(link, (const char *a, const char *b), a, b)
PATHS(linkat, (int x, const char *a, int y, const char *b, int f), x, a, y, b, f)
PATHS(symlink, (const char *a, const char *b), a, b)
PATHS(symlinkat, (const char *a, int x, const char *b), a, x, b)
PATHS(truncate, (const char *a, off_t n), a, n)
PATHS(ftruncate, (int f, off_t n), f, n)
PATHS(ftruncate64, (int f, off64_t n), f, n)
PATHS(fsync, (int f), f)
PATHS(fdatasync, (int f), f)

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    REAL(int, name, const char *, int, ...); \
    va_list more; \
    va_start(more, flags); \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
    va_end(more); \
    if (flags & (O_CREAT | O_TRUNC)) step(); \
    return real(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
  int name(int at, const char *path, int flags, ...) { \
    REAL(int, name, int, const char *, int, ...); \
    va_list more; \
    va_start(more, flags); \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
    va_end(more); \
    if (flags & (O_CREAT | O_TRUNC)) step(); \
    return real(at, path, flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)

/* A write of n bytes, of which HALF writes the first n / 2. */
#define WRITE(name, declared, file, size, half, ...) \
  ssize_t name declared { \
    static ssize_t(*real) declared; \
    if (!real) real = (ssize_t(*) declared)dlsym(RTLD_NEXT, #name); \
    if (seen(file)) { \
      step(); \
      if (in_half && reached()) { \
        (void)!(half); \
        kill(mine, SIGKILL); \
      } \
    } \
    return real(__VA_ARGS__); \
  }
WRITE(write, (int f, const void *b, size_t n), f, n, real(f, b, n / 2), f, b, n)
WRITE(pwrite, (int f, const void *b, size_t n, off_t o), f, n, real(f, b, n / 2, o), f, b, n, o)
WRITE(pwrite64, (int f, const void *b, size_t n, off64_t o), f, n, real(f, b, n / 2, o), f, b, n, o)
WRITE(writev, (int f, const struct iovec *v, int n), f, n, real(f, v, n / 2), f, v, n)
WRITE(send, (int f, const void *b, size_t n, int g), f, n, real(f, b, n / 2, g), f, b, n, g)
WRITE(sendto, (int f, const void *b, size_t n, int g, const struct sockaddr *a, socklen_t l), f, n, real(f, b, n / 2, g, a, l), f, b, n, g, a, l)
WRITE(sendmsg, (int f, const struct msghdr *m, int g), f, 0, real(f, m, g), f, m, g)
