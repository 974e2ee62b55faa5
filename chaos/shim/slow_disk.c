/* A disk that is slow on demand: preloaded into a process, it makes every sync wait for as many
 * milliseconds as the file $SLOW_DISK_DIR/slow-<pid> says, as long as there is one. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void wait_as_told(void) {
    const char *dir = getenv("SLOW_DISK_DIR");
    char path[4096], text[32] = {0};
    if (!dir) return;
    snprintf(path, sizeof path, "%s/slow-%d", dir, (int)getpid());
    int told = open(path, O_RDONLY | O_CLOEXEC);
    if (told < 0) return;
    ssize_t length = read(told, text, sizeof text - 1);
    close(told);
    long millis = length > 0 ? atol(text) : 0;
    struct timespec rest = {millis / 1000, (millis % 1000) * 1000000L};
    nanosleep(&rest, NULL);
}

int fdatasync(int file) {
    wait_as_told();
    return (int)syscall(SYS_fdatasync, file);
}

int fsync(int file) {
    wait_as_told();
    return (int)syscall(SYS_fsync, file);
}
