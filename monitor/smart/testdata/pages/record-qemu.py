#!/usr/bin/env python3
"""Asks the NVMe controller of QEMU for its pages, over the registers and a queue, and writes
them into the directory that is named, without the zeros at the end; a refusal goes to status."""
import struct, subprocess, sys, tempfile, time

BAR, QUEUE, DONE, DATA = 0xE0000000, 0x100000, 0x110000, 0x200000
out = sys.argv[1]
rom = tempfile.NamedTemporaryFile()  # the processor stops: cli; hlt; jmp back
rom.write(b"\xff" * 0xFFF0 + b"\xfa\xf4\xeb\xfd" + b"\xff" * 12)
rom.flush()
qemu = subprocess.Popen(
    ["qemu-system-x86_64", "-machine", "q35", "-bios", rom.name, "-display", "none", "-nodefaults", "-m", "64", "-qtest", "stdio",
     "-blockdev", "driver=null-co,node-name=disk,size=1073741824,read-zeroes=on",
     "-device", "nvme,drive=disk,serial=SERIAL012345,addr=4,physical_block_size=4096,logical_block_size=4096,smart_critical_warning=5"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def say(line):  # docs/devel/testing, qtest: one line, one answer
    qemu.stdin.write(line + "\n")
    qemu.stdin.flush()
    for answer in qemu.stdout:
        if not answer.startswith("IRQ"):
            assert answer.startswith("OK"), answer
            return answer[2:].strip()
    raise SystemExit("QEMU ended: " + line[:60])


def read(at, n):
    return bytes.fromhex(say(f"read {at:#x} {n}")[2:])


def config(register, value):
    say(f"outl 0xcf8 {0x80000000 | 4 << 11 | register:#x}")
    say(f"outl 0xcfc {value:#x}")


def register(at, value):
    say(f"writel {BAR + at:#x} {value:#x}")


config(0x10, BAR)
config(0x04, 6)  # memory and bus master
for at, value in (0x24, 31 << 16 | 31), (0x28, QUEUE), (0x2C, 0), (0x30, DONE), (0x34, 0), (0x14, 1 | 6 << 16 | 4 << 20):
    register(at, value)
while not int(say(f"readl {BAR + 0x1C:#x}"), 16) & 1:
    time.sleep(0.05)

pages = {"identify-1": (6, 0, 1, 4096), "identify-0": (6, 1, 0, 4096)}
for log, n in (1, 256), (2, 512), (6, 564):
    pages[f"log-{log}"] = (2, 0xFFFFFFFF, log | (n // 4 - 1) << 16, n)
refused = {}
for i, (name, (opcode, namespace, cdw10, n)) in enumerate(pages.items()):
    say(f"memset {DATA:#x} {n} 0")
    command = struct.pack("<BBHI16xQQI20x", opcode, 0, i, namespace, DATA, DATA + 4096, cdw10)
    say(f"write {QUEUE + 64 * i:#x} 64 0x{command.hex()}")
    register(0x1000, i + 1)
    while not (done := read(DONE + 16 * i, 16))[14] & 1:
        time.sleep(0.05)
    if status := struct.unpack("<H", done[14:])[0] >> 1:
        refused[name] = status
    else:
        with open(f"{out}/{name}.bin", "wb") as f:
            f.write(read(DATA, n).rstrip(b"\0"))
with open(out + "/status", "w") as f:
    f.writelines(f"{name} {status:#06x}\n" for name, status in refused.items())
qemu.kill()
