/*
 * A disk's load in a Linux guest: asynchronous direct I/O of a fixed depth, without a C library.
 *
 *     diskload read|write|randread|randwrite DEVICE DEPTH BLOCK COUNT
 *         COUNT requests of BLOCK bytes, DEPTH at a time, in order or anywhere in the device.
 *     diskload journal DEVICE BLOCK COUNT EVERY
 *         Writes of BLOCK bytes anywhere, one at a time; write I, counted from 1, holds the number I in its first eight
 *         bytes, and every further eight bytes hold I too. After EVERY writes, a flush, and then a line "FLUSHED I".
 *
 * Random places come from a generator that the host knows as well: see PLACE. Lines "LOAD begin" and "LOAD end" enclose
 * the load, for the host to time it.
 */

typedef unsigned long u64;
typedef unsigned int u32;

enum { SYS_io_setup = 0, SYS_io_submit = 2, SYS_io_getevents = 4, SYS_ioctl = 29, SYS_openat = 56, SYS_write = 64,
       SYS_pwrite64 = 68, SYS_fdatasync = 83, SYS_exit = 93 };
enum { AT_FDCWD = -100, O_RDWR = 2, O_DIRECT = 040000, BLKGETSIZE64 = 0x80081272 };
enum { IOCB_CMD_PREAD = 0, IOCB_CMD_PWRITE = 1 };
enum { MAX_DEPTH = 64, MAX_BLOCK = 1 << 20 };

struct iocb {
    u64 data;
    u32 key, rw_flags;
    unsigned short opcode;
    short priority;
    u32 fd;
    u64 buffer, length, offset, reserved;
    u32 flags, resfd;
};

struct io_event {
    u64 data, object;
    long result, result2;
};

static char buffers[32][MAX_BLOCK] __attribute__((aligned(4096)));
static struct iocb requests[MAX_DEPTH];
static struct io_event events[MAX_DEPTH];

static long call(long number, long a, long b, long c, long d, long e)
{
    register long a0 __asm__("a0") = a;
    register long a1 __asm__("a1") = b;
    register long a2 __asm__("a2") = c;
    register long a3 __asm__("a3") = d;
    register long a4 __asm__("a4") = e;
    register long a7 __asm__("a7") = number;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a7) : "memory");
    return a0;
}

static void say(const char *text)
{
    long length = 0;
    while (text[length])
        length++;
    call(SYS_write, 1, (long)text, length, 0, 0);
}

static void say_number(const char *before, u64 value)
{
    char line[64], digits[24];
    int n = 0, at = 0;
    while (*before)
        line[at++] = *before++;
    do
        digits[n++] = '0' + value % 10;
    while (value /= 10);
    while (n)
        line[at++] = digits[--n];
    line[at++] = '\n';
    line[at] = 0;
    say(line);
}

static void die(const char *what, long error)
{
    say("LOAD failed: ");
    say_number(what, -error);
    call(SYS_exit, 1, 0, 0, 0, 0);
}

static long need(const char *what, long result)
{
    if (result < 0)
        die(what, result);
    return result;
}

static u64 number(const char *text)
{
    u64 value = 0;
    while (*text)
        value = value * 10 + (*text++ - '0');
    return value;
}

/* PLACE: where write `i` goes, in blocks. Constants of splitmix64. */
static u64 place(u64 i, u64 blocks)
{
    u64 z = i * 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return (z ^ (z >> 31)) % blocks;
}

static void load(int writes, int random, int fd, u64 size, u64 depth, u64 block, u64 count)
{
    u64 context = 0, started = 0, done = 0, blocks = size / block;
    struct iocb *ready[MAX_DEPTH];

    need("io_setup ", call(SYS_io_setup, depth, (long)&context, 0, 0, 0));
    while (done < count) {
        long n = 0, got;
        if (started == 0)
            for (; n < (long)depth && started < count; n++, started++)
                requests[n].data = n;
        else
            for (got = call(SYS_io_getevents, context, 1, depth, (long)events, 0); n < got; n++) {
                if (events[n].result != (long)block)
                    die("request ", events[n].result);
                done++;
            }
        long submit = 0;
        for (long i = 0; i < n; i++) {
            struct iocb *request;
            u64 index;
            if (done == 0) {
                index = i;
                request = &requests[i];
            } else {
                if (started >= count)
                    break;
                index = started++;
                request = &requests[events[i].data];
            }
            request->opcode = writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
            request->fd = fd;
            request->buffer = (u64)buffers[request->data % 32];
            request->length = block;
            request->offset = (random ? place(index + 1, blocks) : index % blocks) * block;
            ready[submit++] = request;
        }
        for (long sent = 0; sent < submit;)
            sent += need("io_submit ", call(SYS_io_submit, context, submit - sent, (long)(ready + sent), 0, 0));
    }
}

static void journal(int fd, u64 size, u64 block, u64 count, u64 every)
{
    u64 *words = (u64 *)buffers[0];

    for (u64 i = 1; i <= count; i++) {
        for (u64 n = 0; n < block / 8; n++)
            words[n] = i;
        need("pwrite ", call(SYS_pwrite64, fd, (long)words, block, place(i, size / block) * block, 0));
        if (i % every == 0) {
            need("fdatasync ", call(SYS_fdatasync, fd, 0, 0, 0, 0));
            say_number("FLUSHED ", i);
        }
    }
}

static int same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static __attribute__((used)) void run(long *stack)
{
    char **argv = (char **)(stack + 1);
    u64 size = 0;

    if (stack[0] != 6)
        die("arguments ", -stack[0]);
    int fd = need("open ", call(SYS_openat, AT_FDCWD, (long)argv[2], O_RDWR | O_DIRECT, 0, 0));
    need("size ", call(SYS_ioctl, fd, BLKGETSIZE64, (long)&size, 0, 0));
    u64 a = number(argv[3]), b = number(argv[4]), c = number(argv[5]);
    for (long i = 0; i < (long)sizeof buffers / 8; i += 512)
        ((u64 *)buffers)[i] = i; /* real pages, that are not all alike */
    say("LOAD begin\n");
    if (same(argv[1], "journal"))
        journal(fd, size, a, b, c);
    else
        load(same(argv[1], "write") || same(argv[1], "randwrite"), argv[1][0] == 'r' && argv[1][1] == 'a', fd, size, a, b, c);
    say("LOAD end\n");
    call(SYS_exit, 0, 0, 0, 0, 0);
}

__asm__(".globl _start\n_start: mv a0, sp\n andi sp, sp, -16\n j run\n");
