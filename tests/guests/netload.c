/*
 * One TCP connection to the host of user-mode networking, 10.0.2.2, without a C library.
 *
 *     netload send|receive PORT MIB
 *         Connects, sends or receives that many MiB, and closes the connection.
 */

typedef unsigned long u64;

enum { SYS_read = 63, SYS_write = 64, SYS_exit = 93, SYS_socket = 198, SYS_connect = 203 };
enum { AF_INET = 2, SOCK_STREAM = 1, CHUNK = 1 << 16 };

static char buffer[CHUNK];

static long call(long number, long a, long b, long c)
{
    register long a0 __asm__("a0") = a;
    register long a1 __asm__("a1") = b;
    register long a2 __asm__("a2") = c;
    register long a7 __asm__("a7") = number;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a7) : "memory");
    return a0;
}

static u64 number(const char *text)
{
    u64 value = 0;
    while (*text)
        value = value * 10 + (*text++ - '0');
    return value;
}

static void need(int true, const char *what, long length)
{
    if (!true) {
        call(SYS_write, 1, (long)what, length);
        call(SYS_exit, 1, 0, 0);
    }
}
#define NEED(condition, what) need(condition, what "\n", sizeof what)

static __attribute__((used)) void run(long *stack)
{
    char **argv = (char **)(stack + 1);

    NEED(stack[0] == 4, "netload send|receive PORT MIB");
    u64 port = number(argv[2]), left = number(argv[3]) << 20;
    /* Family in the machine's order, port and address in the network's. */
    static unsigned char address[16] = { AF_INET, 0, 0, 0, 10, 0, 2, 2 };
    address[2] = port >> 8;
    address[3] = port;
    long fd = call(SYS_socket, AF_INET, SOCK_STREAM, 0);
    NEED(call(SYS_connect, fd, (long)address, sizeof address) == 0, "netload: no connection");
    long what = argv[1][0] == 's' ? SYS_write : SYS_read;
    while (left) {
        long got = call(what, fd, (long)buffer, left < CHUNK ? left : CHUNK);
        NEED(got > 0, "netload: the connection has ended");
        left -= got;
    }
    call(SYS_exit, 0, 0, 0);
}

__asm__(".globl _start\n_start: mv a0, sp\n andi sp, sp, -16\n j run\n");
