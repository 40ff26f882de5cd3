/* Preloaded into a test's process: lets the n-th write or sync of a file below a folder fail, or kills the process in it.

   Active only in a process that has called fault_arm; otherwise every call is passed on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NONE, FAIL, FAIL_ON, SHORT, KILL_HALF, KILL_AFTER }; /* FAIL_ON: this call and all after it */

static char folder[4096];
static long at, seen;
static int kind, code;

void fault_arm(const char *below, long n, int how, int error) {
  snprintf(folder, sizeof folder, "%s", below);
  at = n, seen = 0, kind = how, code = error;
}

long fault_seen(void) { return seen; }

static int due(int fd) {
  char link[64], path[4096];
  if (!folder[0]) return NONE;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return NONE;
  path[n] = 0;
  if (strncmp(path, folder, strlen(folder))) return NONE;
  long now = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
  if (now == at) return kind;
  return kind == FAIL_ON && now > at ? FAIL_ON : NONE;
}

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define GUARDED(call, half)                                                                                            \
  int how = due(fd);                                                                                                   \
  if (how == FAIL || how == FAIL_ON) { errno = code; return -1; }                                                      \
  if (how == SHORT) return half;                                                                                       \
  if (how == KILL_HALF) { (void)!half; die(); }                                                                        \
  __typeof__(call) result = call;                                                                                      \
  if (how == KILL_AFTER) die();                                                                                        \
  return result;

ssize_t write(int fd, const void *data, size_t n) {
  GUARDED(REAL(write)(fd, data, n), REAL(write)(fd, data, n / 2))
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t where) {
  GUARDED(REAL(pwrite)(fd, data, n, where), REAL(pwrite)(fd, data, n / 2, where))
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t where) {
  GUARDED(REAL(pwrite64)(fd, data, n, where), REAL(pwrite64)(fd, data, n / 2, where))
}
ssize_t writev(int fd, const struct iovec *parts, int n) { /* LMDB's pages, several at once */
  GUARDED(REAL(writev)(fd, parts, n), REAL(write)(fd, parts[0].iov_base, parts[0].iov_len / 2))
}
int fsync(int fd) { GUARDED(REAL(fsync)(fd), 0) }
int fdatasync(int fd) { GUARDED(REAL(fdatasync)(fd), 0) }
int ftruncate(int fd, off_t n) { GUARDED(REAL(ftruncate)(fd, n), REAL(ftruncate)(fd, n)) }
int ftruncate64(int fd, off64_t n) { GUARDED(REAL(ftruncate64)(fd, n), REAL(ftruncate64)(fd, n)) }
