/* Sets the clock of one process and its children: preloaded, it adds the seconds in the first eight bytes (int64) of the file $SET_CLOCK to
   the time of day. Monotonic clocks stay as they are, as they do when a machine's clock is set. (libfaketime 0.9.10 does this too, but then
   every sleep of Python fails.) */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *seconds;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("SET_CLOCK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *at = mmap(NULL, sizeof *seconds, PROT_READ, MAP_SHARED, file, 0);
  if (at != MAP_FAILED) seconds = at;
  close(file);
}

static int64_t ahead(void) { return seconds ? *seconds : 0; }

int clock_gettime(clockid_t which, struct timespec *out) {
  int answer = syscall(SYS_clock_gettime, which, out);
  if (!answer && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) out->tv_sec += ahead();
  return answer;
}

int gettimeofday(struct timeval *out, void *zone) {
  struct timespec now;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &now);
  out->tv_sec = now.tv_sec;
  out->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
