/*
 * A guest that makes aligned accesses of all kinds and sizes to the registers of the board `virt`, in M-mode, and writes down what came
 * of each: two emulators of the board have to agree.
 *
 * At RECORDS, for each access: address, value to be stored, number of the operation, value loaded, mcause + 1 or 0, mtval, mip, 0.
 * In the end it switches the machine off.
 */
    .include "common.h"

    .option norvc
    .equ UART, 0x10000000
    .equ FINISHER, 0x00100000
    .equ MTIMECMP, 0x02004000
    .equ RECORDS, 0x80900000
    .equ OPERATIONS, 28
    .equ DEVICES, 20
    .equ MPP, 0x1800
    .equ FS, 0x2000

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
    li t0, MTIMECMP /* undefined after a reset */
    li t1, -1
    sd t1, (t0)
    ld s0, seed
    ld s1, rounds
    li s11, RECORDS

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
    srli s8, s0, 20
    andi s8, s8, 0x7ff
    li t1, OPERATIONS
    remu s8, s8, t1 /* how */
    la t1, masks
    add t1, t1, s8
    lb t1, (t1)
    and a0, a0, t1
    li t1, UART + 4
    bne a0, t1, 5f
    addi a0, a0, -4 /* see below */
5:  slli t0, s8, 3
    la t1, operations
    add t1, t1, t0
    mv s9, a1
    mv s10, a0
    li s6, 0
    li s7, 0
    li t0, 0
    jalr t1
    sd s10, 0(s11)
    sd s9, 8(s11)
    sd s8, 16(s11)
    sd t0, 24(s11)
    sd s6, 32(s11)
    sd s7, 40(s11)
    csrr t1, mip
    sd t1, 48(s11)
    addi s11, s11, 64
    addi s1, s1, -1
    bnez s1, loop

    li t0, FINISHER
    li t1, 0x5555
    sw t1, (t0)
8:  wfi
    j 8b

random:
    next_random

    /* Write down what it was, and go on behind the operation. */
    .balign 4
trap:
    csrr s6, mcause
    addi s6, s6, 1
    csrr s7, mtval
    li t0, 0
    csrw mepc, ra
    li t5, MPP
    csrs mstatus, t5
    mret

    .balign 8
operations: /* of two instructions each */
    loads_and_stores
    amoxor.w t0, a1, (a0)
    ret
    amoand.d t0, a1, (a0)
    ret
    amomin.w t0, a1, (a0)
    ret
    amoswap.d t0, a1, (a0)
    ret
    atomics

masks: /* what aligns an address for each operation */
    .byte -1, -1, -2, -2, -4, -4, -8, -8, -1, -1, -2, -2, -4, -4, -8, -8, -4, -8, -4, -8, -4, -8, -4, -8, -4, -8, -8, -4
    .balign 8
devices: /* base, mask of offsets */
    .dword UART, 3
    .dword UART, 3
    .dword UART, 3
    .dword UART + 5, 0
    .dword UART + 6, 1
    .dword UART, 0x1ff & ~7 /* not MCR: a loopback's changes of modem lines are told here and not by QEMU */
    .dword 0x10001000, 0x1fff
    .dword 0x10007000, 0x3fff
    .dword 0x00100800, 0x7ff /* not the finisher's register: that would be the end */
    .dword 0x02000000, 0x3fff
    .dword 0x02000000, 7
    .dword MTIMECMP, 7
    .dword 0x0c000000, 0x1ff
    .dword 0x0c000028, 7
    .dword 0x0c001000, 0xf
    .dword 0x0c002004, 0 /* not the word with the enable bit of source 0, which does not exist but is kept by QEMU */
    .dword 0x0c200000, 0x1fff
    .dword 0x0c200000, 7
    .dword 0x0c100000, 0xfffff
    .dword 0x18000000, 0xfffff
devices_end:
    .if (devices_end - devices) / 16 != DEVICES
    .error "DEVICES is wrong"
    .endif
