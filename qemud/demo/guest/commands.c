/* The prompt and its commands. */
#include "demo.h"

enum { LINE = 128, SUM_WORDS = 65536, CODE_ROUNDS = 100 };

static uint64_t arguments[2];
static const char *rest; /* of the line, after the command's name */

static void right_of(uint64_t right, uint64_t all)
{
    put_number(right);
    put(" of ");
    put_number(all);
    put(" right\n");
}

static void show_memory(void)
{
    put("memory: ");
    put_number(machine.memory_size >> 20);
    put(" MiB at ");
    put_hex(machine.memory_base);
    put(", guest ");
    put_number((uint64_t)(_end - _start));
    put(" bytes at ");
    put_hex((uint64_t)_start);
    put("\n");
}

static void show_interrupts(void)
{
    put("irq: timer ");
    put_number(ticks);
    put(", plic ");
    put_number(plic_claims);
    put(", uart ");
    put_number(uart_interrupts);
    put(", break ");
    put_number(uart_breaks);
    put(", overrun ");
    put_number(uart_overruns);
    put("\n");
}

static void show_time(void)
{
    uint64_t now = csr_read(time);
    put("time: ");
    put_number(now);
    put("\n");
}

static void wait_ticks(void)
{
    for (uint64_t i = 1; i <= arguments[0]; i++) {
        uint64_t before = ticks;
        csr_clear(sstatus, SSTATUS_SIE);
        while (ticks == before)
            wait_for_interrupt();
        csr_set(sstatus, SSTATUS_SIE);
        put("tick ");
        put_number(i);
        put("\n");
    }
}

static void echo(void)
{
    put(rest);
    put("\n");
}

static void count(void)
{
    for (uint64_t i = 1; i <= arguments[0]; i++) {
        put("count ");
        put_number(i);
        put("\n");
    }
}

static void spin(void)
{
    for (uint64_t i = arguments[0] * 1000000; i; i--)
        __asm__ volatile("" ::: "memory");
    put("spin: done\n");
}

/* Each pass fills 512 KiB beyond the guest from a generator and adds it up with rotations: always the same sum. */
static void sum(void)
{
    volatile uint64_t *words = (volatile uint64_t *)_end;
    uint64_t first = 0, right = 0, passes = arguments[0] ? arguments[0] : 1;
    for (uint64_t pass = 0; pass < passes; pass++) {
        uint64_t x = 88172645463325252ull, total = 0;
        for (unsigned i = 0; i < SUM_WORDS; i++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            words[i] = x;
        }
        for (unsigned i = 0; i < SUM_WORDS; i++)
            total = (total << 1 | total >> 63) + words[i];
        if (pass == 0)
            first = total;
        right += total == first;
    }
    put("sum: ");
    put_hex(first);
    put(", ");
    right_of(right, passes);
}

/* Atomic additions under a storm of timer interrupts: none may be lost, none done twice. */
static void atomic(void)
{
    static uint64_t counter;
    uint64_t rounds = (arguments[0] ? arguments[0] : 1) * 1000000;
    counter = 0;
    set_tick_rate(2000);
    for (uint64_t i = rounds; i; i--)
        __asm__ volatile("amoadd.d zero, %1, %0" : "+A"(counter) : "r"(1ull) : "memory");
    set_tick_rate(TICK_HZ);
    put("atomic: ");
    right_of(counter, rounds);
}

/* Writes a function, calls it, writes another in its place, and so on. */
static void code(void)
{
    volatile uint32_t *words = (volatile uint32_t *)_end;
    uint64_t right = 0;
    for (uint32_t i = 0; i < CODE_ROUNDS; i++) {
        words[0] = 0x00000513 | i << 20; /* li a0, i */
        words[1] = 0x00008067;           /* ret */
        __asm__ volatile("fence.i" ::: "memory");
        right += ((uint64_t(*)(void))_end)() == i;
    }
    put("code: ");
    right_of(right, CODE_ROUNDS);
}

static void report_fault(volatile uint64_t *marker)
{
    if (fault_expected) {
        fault_expected = false;
        put("fault: none\n");
        return;
    }
    put("fault: cause ");
    put_number(last_fault.cause);
    put(", address ");
    put_hex(last_fault.value);
    put(*marker ? ", imprecise\n" : ", precise\n");
}

static void fault_with(void (*probe)(uint64_t, volatile uint64_t *))
{
    static volatile uint64_t marker;
    marker = 0;
    fault_expected = true;
    probe(arguments[0] ? arguments[0] : 0x18000000, &marker);
    report_fault(&marker);
}

static void fault_load(void)
{
    fault_with(probe_load);
}

static void fault_store(void)
{
    fault_with(probe_store);
}

static void fault_fetch(void)
{
    fault_with(probe_jump);
}

static void peek(void)
{
    put("peek: ");
    put_hex(*(volatile uint32_t *)arguments[0]);
    put("\n");
}

static void poke(void)
{
    *(volatile uint32_t *)arguments[0] = (uint32_t)arguments[1];
    put("poke: done\n");
}

/* Reads bytes as they come and adds them up as `sum -r` does (16 bits, rotated right). */
static void take(void)
{
    uint32_t total = 0;
    put("take: ready\n");
    for (uint64_t i = 0; i < arguments[0]; i++) {
        total = (total >> 1 | total << 15) & 0xffff;
        total = (total + (uint32_t)get_char()) & 0xffff;
    }
    put("take: ");
    put_number(total);
    put("\n");
}

static void reset(uint64_t type, uint64_t reason)
{
    console_flush();
    struct sbi_result result = sbi(SBI_SRST, 0, type, reason);
    put("the firmware refused: ");
    put_number((uint64_t)-result.error);
    put("\n");
}

static void poweroff(void)
{
    reset(0, 0);
}

static void reboot(void)
{
    reset(1, 0);
}

static void fail(void)
{
    reset(0, 1);
}

static void help(void);

static const struct command {
    const char *name, *usage;
    void (*run)(void);
} commands[] = {
    { "help", "this list", help },
    { "mem", "the memory, as the device tree tells it", show_memory },
    { "irq", "interrupts taken so far", show_interrupts },
    { "time", "the time counter", show_time },
    { "tick", "N: wait for N timer ticks", wait_ticks },
    { "echo", "TEXT: say it", echo },
    { "count", "N: print N lines", count },
    { "take", "N: read N bytes, print their checksum (sum -r)", take },
    { "spin", "N: loop N million times", spin },
    { "sum", "N: fill and add up 512 KiB N times", sum },
    { "atomic", "N: add N million times among interrupts", atomic },
    { "code", "write code and call it", code },
    { "load", "ADDRESS: load, and report a fault", fault_load },
    { "store", "ADDRESS: store, and report a fault", fault_store },
    { "fetch", "ADDRESS: jump, and report a fault", fault_fetch },
    { "peek", "ADDRESS: read 32 bits", peek },
    { "poke", "ADDRESS VALUE: write 32 bits", poke },
    { "poweroff", "switch the machine off", poweroff },
    { "reboot", "start it again", reboot },
    { "fail", "switch it off, telling of a failure", fail },
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void help(void)
{
    for (int i = 0; i < COMMANDS; i++) {
        put(commands[i].name);
        put(" - ");
        put(commands[i].usage);
        put("\n");
    }
}

static const char *number(const char *text, uint64_t *value)
{
    unsigned base = 10, digit;
    *value = 0;
    while (*text == ' ')
        text++;
    if (text[0] == '0' && text[1] == 'x') {
        base = 16;
        text += 2;
    }
    for (;; text++) {
        char c = *text;
        if (c >= '0' && c <= '9')
            digit = (unsigned)(c - '0');
        else if (base == 16 && c >= 'a' && c <= 'f')
            digit = (unsigned)(c - 'a') + 10;
        else
            return text;
        *value = *value * base + digit;
    }
}

static void execute(const char *line)
{
    for (int i = 0; i < COMMANDS; i++) {
        const char *a = line, *b = commands[i].name;
        while (*b && *a == *b)
            a++, b++;
        if (*b || (*a && *a != ' '))
            continue;
        rest = *a ? a + 1 : a;
        number(number(a, &arguments[0]), &arguments[1]);
        commands[i].run();
        return;
    }
    put("unknown command; try help\n");
}

static void read_line(char *line)
{
    int length = 0;
    for (;;) {
        int c = get_char();
        if (c == '\r' || c == '\n') {
            put("\n");
            line[length] = 0;
            return;
        }
        if ((c == '\b' || c == 127) && length) {
            length--;
            put("\b \b");
        } else if (c >= ' ' && c < 127 && length < LINE - 1) {
            line[length++] = (char)c;
            put_char((char)c);
        }
    }
}

static void banner(void)
{
    long version = sbi(SBI_BASE, 0, 0, 0).value;
    put("\nqemud demo guest: riscv64 in S-mode, SBI ");
    put_number((uint64_t)version >> 24);
    put(".");
    put_number((uint64_t)version & 0xffffff);
    put(", time at ");
    put_number(machine.timebase);
    put(" Hz\nuart ");
    put_hex(machine.uart_base);
    put(" irq ");
    put_number(machine.uart_irq);
    put(", plic ");
    put_hex(machine.plic_base);
    put(" context ");
    put_number(machine.plic_context);
    put("\n");
    show_memory();
    if (machine.bootargs && *machine.bootargs) {
        put("command line: ");
        put(machine.bootargs);
        put("\n");
    }
}

void demo_main(uint64_t hart, const void *fdt)
{
    static char line[LINE];
    (void)hart;
    read_device_tree(fdt);
    console_init();
    trap_init();
    banner();
    set_tick_rate(TICK_HZ);
    arguments[0] = 1;
    wait_ticks();
    put("Try help.\n");
    for (;;) {
        put("demo> ");
        read_line(line);
        if (*line)
            execute(line);
    }
}
