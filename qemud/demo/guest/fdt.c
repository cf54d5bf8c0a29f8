/* Reads the flattened device tree (Devicetree Specification 0.4, chapter 5): where the memory, the UART and the PLIC are. */
#include "demo.h"

enum { FDT_MAGIC = 0xd00dfeed, FDT_BEGIN_NODE = 1, FDT_END_NODE = 2, FDT_PROP = 3, FDT_NOP = 4, MAX_DEPTH = 8 };

struct machine machine;

/* One node under way: what its properties have said so far. */
struct node {
    uint32_t address_cells, size_cells; /* for its children */
    uint64_t reg_base, reg_size;
    uint32_t interrupt;
    uint32_t context;
    bool memory, uart, plic;
};

static uint32_t cell(const void *at)
{
    const uint8_t *b = at;
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static uint64_t cells(const uint8_t *at, uint32_t count)
{
    uint64_t value = 0;
    while (count--) {
        value = value << 32 | cell(at);
        at += 4;
    }
    return value;
}

static bool same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* Whether the string list of `length` bytes holds `wanted`. */
static bool lists(const char *list, uint32_t length, const char *wanted)
{
    const char *end = list + length;
    while (list < end) {
        if (same(list, wanted))
            return true;
        while (list < end && *list)
            list++;
        list++;
    }
    return false;
}

static void property(struct node *node, const struct node *parent, const char *name, const uint8_t *data, uint32_t length)
{
    if (same(name, "#address-cells"))
        node->address_cells = cell(data);
    else if (same(name, "#size-cells"))
        node->size_cells = cell(data);
    else if (same(name, "reg")) {
        node->reg_base = cells(data, parent->address_cells);
        node->reg_size = cells(data + 4 * parent->address_cells, parent->size_cells);
    } else if (same(name, "device_type"))
        node->memory = lists((const char *)data, length, "memory");
    else if (same(name, "compatible")) {
        node->uart = lists((const char *)data, length, "ns16550a");
        node->plic = lists((const char *)data, length, "riscv,plic0") || lists((const char *)data, length, "sifive,plic-1.0.0");
    } else if (same(name, "interrupts"))
        node->interrupt = cell(data);
    else if (same(name, "interrupts-extended")) {
        /* Pairs (phandle, interrupt of the hart); the context of ours is the first that raises 9, S-mode external. */
        for (uint32_t i = 0; i < length / 8; i++)
            if (cell(data + 8 * i + 4) == 9) {
                node->context = i;
                break;
            }
    } else if (same(name, "timebase-frequency"))
        machine.timebase = cell(data);
    else if (same(name, "bootargs"))
        machine.bootargs = (const char *)data;
}

static void finish(const struct node *node)
{
    if (node->memory && !machine.memory_size) {
        machine.memory_base = node->reg_base;
        machine.memory_size = node->reg_size;
    }
    if (node->uart && !machine.uart_base) {
        machine.uart_base = node->reg_base;
        machine.uart_irq = node->interrupt;
    }
    if (node->plic) {
        machine.plic_base = node->reg_base;
        machine.plic_context = node->context;
    }
}

void read_device_tree(const void *fdt)
{
    static struct node stack[MAX_DEPTH];
    const uint8_t *base = fdt;
    if (cell(base) != FDT_MAGIC)
        return;
    const uint8_t *at = base + cell(base + 8);
    const char *strings = (const char *)base + cell(base + 12);
    unsigned depth = 0;
    stack[0].address_cells = 2;
    stack[0].size_cells = 1;
    for (;;) {
        uint32_t token = cell(at);
        at += 4;
        if (token == FDT_BEGIN_NODE) {
            while (*at)
                at++;
            at = (const uint8_t *)(((uintptr_t)at + 4) & ~(uintptr_t)3);
            if (++depth == MAX_DEPTH)
                return;
            stack[depth] = (struct node){ .address_cells = 2, .size_cells = 1 };
        } else if (token == FDT_END_NODE) {
            finish(&stack[depth]);
            if (--depth == 0)
                return;
        } else if (token == FDT_PROP) {
            uint32_t length = cell(at);
            property(&stack[depth], &stack[depth - 1], strings + cell(at + 4), at + 8, length);
            at += 8 + ((length + 3) & ~3u);
        } else if (token != FDT_NOP)
            return;
    }
}
