// What the player uses of Android's C library on arm64, declared for `make apk-check`, which has no NDK: every function
// is there since API 21, and every number is bionic's. Headers of other names are made to include this one; what is not
// declared here cannot be used, and what is declared below a library's name is linked from it alone.
//
// An app for people is built with the NDK's own headers (../build.gradle).
#pragma once

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

typedef long ssize_t;
typedef long off_t;
typedef int pid_t;
typedef unsigned mode_t;
typedef long time_t;

struct timespec {
  time_t tv_sec;
  long tv_nsec;
};

struct stat {
  unsigned long st_dev, st_ino;
  mode_t st_mode;
  unsigned st_nlink, st_uid, st_gid;
  unsigned long st_rdev, st_pad1;
  long st_size;
  int st_blksize, st_pad2;
  long st_blocks;
  timespec st_atim, st_mtim, st_ctim;
  unsigned st_unused[2];
};

struct dirent {
  uint64_t d_ino;
  int64_t d_off;
  unsigned short d_reclen;
  unsigned char d_type;
  char d_name[256];
};

struct FILE;
struct DIR;

#define O_RDONLY 0
#define O_WRONLY 01
#define O_CREAT 0100
#define O_TRUNC 01000
#define O_CLOEXEC 02000000
#define AT_FDCWD (-100)
#define S_ISDIR(mode) (((mode)&0170000) == 0040000)
#define S_ISREG(mode) (((mode)&0170000) == 0100000)
#define st_mtime st_mtim.tv_sec
#define PROT_READ 1
#define MAP_PRIVATE 2
#define MAP_FAILED (reinterpret_cast<void*>(-1))
#define F_DUPFD_CLOEXEC 1030
#define MADV_WILLNEED 3
#define MADV_DONTNEED 4
#define CLOCK_MONOTONIC 1
#define _SC_PAGESIZE 0x27
#define RTLD_NOW 2
#define RTLD_LOCAL 0
#define EINTR 4
#define EIO 5
#define EFAULT 14
#define EEXIST 17
#define EINVAL 22
#define ENOSPC 28
#define errno (*__errno())
#define isfinite(x) __builtin_isfinite(x)
#define isnan(x) __builtin_isnan(x)
#define isinf(x) __builtin_isinf(x)
#define signbit(x) __builtin_signbit(x)
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define M_PI 3.14159265358979323846

extern "C" {
// libc.so
int* __errno(void);
void* malloc(size_t);
void* calloc(size_t, size_t);
void* realloc(void*, size_t);
void free(void*);
void qsort(void*, size_t, size_t, int (*)(const void*, const void*));
char* getenv(const char*);
int atoi(const char*);
int abs(int);
unsigned long long strtoull(const char*, char**, int);
double strtod(const char*, char**);
char* realpath(const char*, char*);
void* memcpy(void*, const void*, size_t);
void* memmove(void*, const void*, size_t);
void* memset(void*, int, size_t);
int memcmp(const void*, const void*, size_t);
void* memchr(const void*, int, size_t);
size_t strlen(const char*);
int strcmp(const char*, const char*);
int strncmp(const char*, const char*, size_t);
char* strchr(const char*, int);
char* strstr(const char*, const char*);
size_t strspn(const char*, const char*);
char* strerror(int);
int snprintf(char*, size_t, const char*, ...) __attribute__((format(printf, 3, 4)));
int vsnprintf(char*, size_t, const char*, va_list) __attribute__((format(printf, 3, 0)));
FILE* fopen(const char*, const char*);
int fclose(FILE*);
char* fgets(char*, int, FILE*);
int rename(const char*, const char*);
int open(const char*, int, ...);
int close(int);
ssize_t read(int, void*, size_t);
ssize_t write(int, const void*, size_t);
int fsync(int);
int unlink(const char*);
pid_t getpid(void);
long sysconf(int);
int stat(const char*, struct stat*);
int fstat(int, struct stat*);
int mkdir(const char*, mode_t);
int utimensat(int, const char*, const timespec*, int);
void* mmap(void*, size_t, int, int, int, off_t);
int munmap(void*, size_t);
int madvise(void*, size_t, int);
int fcntl(int, int, ...);
DIR* opendir(const char*);
dirent* readdir(DIR*);
int closedir(DIR*);
int clock_gettime(int, timespec*);
void __stack_chk_fail(void);

// libm.so
double sqrt(double);
float sqrtf(float);
double exp(double);
double log1p(double);
double log(double);
double acos(double);
double tan(double);
double sin(double);
double cos(double);
double fabs(double);
float fabsf(float);
double floor(double);
double rint(double);
double fmin(double, double);
double fmax(double, double);
float rintf(float);
float fmaf(float, float, float);
float ldexpf(float, int);

// libdl.so
void* dlopen(const char*, int);
void* dlsym(void*, const char*);
char* dlerror(void);

// liblog.so
int __android_log_write(int, const char*, const char*);
}

#define ANDROID_LOG_INFO 4
#define ANDROID_LOG_WARN 5
