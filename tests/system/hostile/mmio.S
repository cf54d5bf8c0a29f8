/*
 * A guest that hammers every device of the board `virt`, in M-mode, from the beginning of RAM: accesses of all kinds and sizes at
 * random offsets, aligned and not, inside registers, beside them and in holes; jumps there; page tables there.
 *
 * Every fault is skipped.  In the end it puts the serial port into order and says "done".
 */
    .include "common.h"

    .option norvc
    .equ UART, 0x10000000
    .equ TABLES, 0x80800000 /* 64 KiB of page tables */
    .equ MPRV, 0x20000
    .equ MPP, 0x1800
    .equ MPP_S, 0x800
    .equ FS, 0x2000
    .equ DEVICES, 19

    /* One access as S-mode makes it, at an address that the tables know something of. */
    .macro call_translated access
    li t0, MPP
    csrc mstatus, t0
    li t0, MPP_S | MPRV
    csrs mstatus, t0
    srli t1, s0, 24
    slli t1, t1, 24
    srli t1, t1, 24
    \access a1, (t1)
    li t0, MPRV
    csrc mstatus, t0
    csrw satp, zero
    .endm

    .globl _start
_start:
    j 1f
    .balign 8
seed:
    .dword 0x9e3779b97f4a7c15
rounds:
    .dword 100000
1:  la t0, trap
    csrw mtvec, t0
    csrw mie, zero
    li t0, FS
    csrs mstatus, t0
    ld s0, seed
    ld s1, rounds
    li s2, 0
    li t0, -1 /* all memory for S-mode */
    srli t0, t0, 10
    csrw pmpaddr0, t0
    li t0, 0x1f
    csrw pmpcfg0, t0

    /* Page tables: entries lead to the tables, to registers and to holes; with all permissions, or with random ones. */
    li s3, TABLES
    li s4, 8192
2:  call random
    la t0, places
    srli t1, s0, 40
    andi t1, t1, 7
    slli t1, t1, 3
    add t0, t0, t1
    ld t0, (t0)
    srli t1, s0, 8
    andi t1, t1, 15
    slli t1, t1, 12
    add t0, t0, t1
    srli t0, t0, 2
    andi t1, s0, 0xff
    bltz s0, 3f
    ori t1, t1, 0xcf
3:  or t0, t0, t1
    sd t0, (s3)
    addi s3, s3, 8
    addi s4, s4, -1
    bnez s4, 2b

loop:
    call random
    la t0, devices
    srli t1, s0, 48
    li t2, DEVICES
    remu t1, t1, t2
    slli t1, t1, 4
    add t0, t0, t1
    ld a0, (t0)
    ld t1, 8(t0)
    srli t2, s0, 3
    and t2, t2, t1
    add a0, a0, t2 /* where */
    call random
    mv a1, s0 /* what: any number, or one byte */
    bltz s0, 4f
    andi a1, a1, 0xff
4:  call random
    andi t0, s0, 3 /* aligned three times out of four */
    beqz t0, 5f
    andi a0, a0, -8
    srli t0, s0, 4
    andi t0, t0, 4
    or a0, a0, t0
5:  srli t0, s0, 20
    andi t0, t0, 31
    slli t0, t0, 3
    la t1, operations
    add t1, t1, t0
    jalr t1
    addi s1, s1, -1
    bnez s1, loop

    li t0, UART
    sb zero, 1(t0)
    sb zero, 3(t0)
    sb zero, 4(t0)
    sb zero, 2(t0)
    la a0, text
    say

random:
    next_random

    /* Whatever it was, go on behind the operation. */
    .balign 4
trap:
    li t5, MPRV
    csrc mstatus, t5
    csrw satp, zero
    csrw mepc, ra
    addi s2, s2, 1
    li t5, MPP
    csrs mstatus, t5
    mret

    .balign 8
operations: /* 32, of two instructions each */
    loads_and_stores
    lr.w t0, (a0)
    ret
    lr.d t0, (a0)
    ret
    sc.w t0, a1, (a0)
    ret
    sc.d t0, a1, (a0)
    ret
    atomics
    jr a0
    ret
    j translated_load
    ret
    j translated_store
    ret
    j strange_table
    ret

translated_load: /* by way of the random tables */
    li t0, TABLES
    srli t0, t0, 12
    j translate
strange_table: /* the root is in a device or in a hole */
    srli t0, a0, 12
translate:
    srli t1, s0, 30
    andi t1, t1, 3
    addi t1, t1, 7 /* 7 is no mode, 8 to 10 are */
    slli t1, t1, 60
    or t0, t0, t1
    csrw satp, t0
    sfence.vma
    call_translated ld
    ret
translated_store:
    li t0, TABLES
    srli t0, t0, 12
    srli t1, s0, 30
    andi t1, t1, 3
    addi t1, t1, 7
    slli t1, t1, 60
    or t0, t0, t1
    csrw satp, t0
    sfence.vma
    call_translated sd
    ret

text:
    .asciz "\ndone\n"

    .balign 8
places: /* where page table entries lead */
    .dword TABLES, TABLES, TABLES, UART, 0x0c000000, 0x18000000, 0x7000000000, 0x3ffffffff000
devices: /* base, mask of offsets */
    .dword UART, 0x1ff
    .dword UART, 0x7
    .dword UART, 0x7
    .dword 0x10001000, 0x1fff
    .dword 0x10007000, 0x3fff
    .dword 0x00101000, 0x1fff
    .dword 0x00101000, 0x1f
    .dword 0x00100800, 0x7ff /* not the finisher's register: that would be the end */
    .dword 0x02000000, 0x1ffff
    .dword 0x02004000, 0xf
    .dword 0x0200bff0, 0xf
    .dword 0x0c000000, 0x1ff
    .dword 0x0c001000, 0xf
    .dword 0x0c002000, 0xff
    .dword 0x0c200000, 0x1fff
    .dword 0x0c000000, 0x7fffff
    .dword 0x18000000, 0xfffff
    .dword 0x7000000000, 0xfffffffff
    .dword 0x7ffffff0, 0xf
devices_end:
    .if (devices_end - devices) / 16 != DEVICES
    .error "DEVICES is wrong"
    .endif
