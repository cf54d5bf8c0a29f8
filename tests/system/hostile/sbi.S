/*
 * A guest that calls its firmware with whatever comes to mind, in S-mode: every extension, known and unknown, functions that exist and
 * do not, numbers and addresses of all kinds.  What would end it or put it to sleep (SRST, HSM's stop and suspend, the legacy
 * shutdown) is left out.
 *
 * In the end it says "done".
 */
    .include "common.h"

    .option norvc
    .equ UART, 0x10000000
    .equ EXTENSIONS, 16
    .equ VALUES, 16

    .globl _start
_start:
    j 1f
    .balign 8
seed:
    .dword 0x9e3779b97f4a7c15
rounds:
    .dword 100000
1:  la t0, trap
    csrw stvec, t0
    csrw sie, zero
    ld s0, seed
    ld s1, rounds
    li s2, 0

loop:
    call random
    la t0, extensions
    srli t1, s0, 60
    slli t1, t1, 3
    add t0, t0, t1
    ld a7, (t0)
    srli a6, s0, 40 /* mostly functions that exist */
    andi a6, a6, 3
    li t0, 0x48534d
    bne a7, t0, 2f
    andi a6, a6, 2 /* HSM: start and status */
2:  srli t0, s0, 50
    andi t0, t0, 15
    bnez t0, 3f
    li t0, 0x48534d
    beq a7, t0, 3f
    mv a6, s0
3:  call value
    mv a0, t0
    call value
    mv a1, t0
    call value
    mv a2, t0
    call value
    mv a3, t0
    call value
    mv a4, t0
    call value
    mv a5, t0
    ecall
    csrw sie, zero
    addi s1, s1, -1
    bnez s1, loop

    la a0, text
    li t0, UART
6:  say

value: /* t0: one of the interesting numbers, or any */
    mv t4, ra
    call random
    mv t0, s0
    srli t1, s0, 58
    li t2, VALUES
    bgeu t1, t2, 1f
    la t0, values
    slli t1, t1, 3
    add t0, t0, t1
    ld t0, (t0)
    jr t4
1:  li t2, 40
    bgeu t1, t2, 2f
    andi t0, t0, 0x7ff
2:  jr t4

random:
    next_random

    .balign 4
trap: /* nothing traps: an interrupt or an exception would be the firmware's mistake */
    la a0, trapped
    li t0, UART
    j 6b

text:
    .asciz "\ndone\n"
trapped:
    .asciz "\ntrapped\n"

    .balign 8
extensions:
    .dword 0x10, 0x54494d45, 0x735049, 0x52464e43, 0x48534d, 0x4442434e
    .dword 0, 1, 2, 3, 4, 5, 6, 7
    .dword 0x504d55, 0xffffffff12345678
values:
    .dword 0, 1, 2, -1, 0x80000000, 0x80800000, 0x807ffff8, 0x83fffffc
    .dword 0x84000000, 0x10000000, 0x1000, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffff, -8, 4096
    .if (values - extensions) / 8 != EXTENSIONS
    .error "EXTENSIONS is wrong"
    .endif
