"""Tiny guests: a few machine instructions in an ELF file, for what Linux would not do.

The 64-bit ones start like Linux does (paging on, first memory identity-mapped, interrupts off); one
with a PVH note starts in 32-bit mode without paging.
"""
import struct

ENTRY = 0x200000
PT_LOAD, PT_NOTE = 1, 4
XEN_ELFNOTE_PHYS32_ENTRY = 18

HALT_FOR_EVER = bytes.fromhex(
    "fa"        # 1: cli
    "f4"        #    hlt
    "ebfc")     #    jmp 1b

# An exception without an interrupt table is a double, then a triple fault.
TRIPLE_FAULT = bytes.fromhex(
    "0f011d02000000"  # lidt [rip + 2]
    "0f0b"            # ud2
    "00000000000000000000")

# 32-bit, no paging: the instruction is fetched from where there is no memory, which KVM can only
# try to emulate, and cannot.
RUN_NO_MEMORY = bytes.fromhex(
    "b8000000d0"  # mov eax, 0xd0000000
    "ffe0")       # jmp eax

# Where the guest's supervisor code is interpreted, this is an instruction that is not.
NOT_INTERPRETED = bytes.fromhex(
    "f30fb8c0")   # popcnt eax, eax

RESET = bytes.fromhex(
    "b0fe"      # mov al, 0xfe
    "e664"      # out 0x64, al
    "f4ebfd")   # hlt, for ever

# Sends 0, 1, 2, ... 255, 0, ... to the serial port as fast as it can.
COUNT = bytes.fromhex(
    "66baf803"  # mov dx, 0x3f8
    "31c0"      # xor eax, eax
    "ee"        # 1: out dx, al
    "ffc0"      # inc eax
    "ebfb")     # jmp 1b

# Writes one 'A' and then does nothing, forever, at full speed.
SPIN = bytes.fromhex(
    "66baf803"  # mov dx, 0x3f8
    "b041"      # mov al, 'A'
    "ee"        # out dx, al
    "ebfe")     # jmp .


def elf(code, *, pvh=False, at=ENTRY, memory_bytes=None):
    """An x86-64 executable with this code at its entry; with `pvh`, a note that says so too."""
    note = struct.pack("<III4sI", 4, 4, XEN_ELFNOTE_PHYS32_ENTRY, b"Xen\0", at) if pvh else b""
    headers = 2 if pvh else 1
    offset = 0x1000
    size = memory_bytes or len(code)
    out = struct.pack("<4sBBBB8xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 2, 62, 1, at, 64, 0, 0,
                      64, 56, headers, 0, 0, 0)
    out += struct.pack("<IIQQQQQQ", PT_LOAD, 7, offset, at, at, len(code), size, 0x1000)
    if pvh:
        start = 64 + 56 * headers
        out += struct.pack("<IIQQQQQQ", PT_NOTE, 4, start, 0, 0, len(note), len(note), 4)
    out += note
    return out.ljust(offset, b"\0") + code
