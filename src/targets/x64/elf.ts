/**
 * Writes the smallest ELF64 shared object that glibc's dlopen takes: named functions, no
 * sections, no relocations. Knows the file format, not what the code does or how it is loaded.
 *
 *     0      ELF header | program headers | DT_HASH | symbols | names | code …   PT_LOAD  R+X
 *     page   _DYNAMIC                                                            PT_LOAD  R+W
 *
 * `_DYNAMIC` is writable because glibc before 2.35 relocates its entries in place.
 * Format: System V ABI, gABI chapters 4 and 5; AMD64 psABI.
 */
import { InternalError } from '../../platform/errors.ts';

/** A function to export under a name. */
export interface NamedCode {
  readonly name: string;
  readonly code: Uint8Array;
}

const PAGE_BYTES = 4096;
/** Functions start on cache lines, and keep alignments of up to this many bytes inside. */
const FUNCTION_ALIGNMENT = 64;
const EHDR_BYTES = 64;
const PHDR_BYTES = 56;
const SYM_BYTES = 24;
const DYN_BYTES = 16;
const NUM_PROGRAM_HEADERS = 4;

const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_GNU_STACK = 0x6474e551;
const PF_X = 1;
const PF_W = 2;
const PF_R = 4;
const DT = { NULL: 0, HASH: 4, STRTAB: 5, SYMTAB: 6, STRSZ: 10, SYMENT: 11, SONAME: 14 } as const;

const roundUp = (value: number, multiple: number): number => Math.ceil(value / multiple) * multiple;

/**
 * The bytes of a shared object that exports `functions`.
 * @param soname must be unique in the process
 * @throws {InternalError} if a name is empty, repeated or not printable ASCII
 */
export function sharedObject(functions: readonly NamedCode[], soname: string): Uint8Array {
  const names = [soname, ...functions.map((f) => f.name)];
  const nameOffsets: number[] = [];
  let nameTable = '\0';
  for (const name of names) {
    if (!/^[!-~]+$/.test(name)) {
      throw new InternalError(`symbol name ${JSON.stringify(name)}: expected printable ASCII`);
    }
    nameOffsets.push(nameTable.length);
    nameTable += `${name}\0`;
  }
  if (new Set(names).size !== names.length) {
    throw new InternalError(`symbol names repeat: ${names.join(', ')}`);
  }

  const numSymbols = functions.length + 1; // Symbol 0 is reserved.
  const hashAt = EHDR_BYTES + NUM_PROGRAM_HEADERS * PHDR_BYTES;
  const symbolsAt = roundUp(hashAt + 4 * (2 + 1 + numSymbols), 8);
  const namesAt = symbolsAt + SYM_BYTES * numSymbols;
  let end = roundUp(namesAt + nameTable.length, FUNCTION_ALIGNMENT);
  const codeOffsets = functions.map((f) => {
    const at = end;
    end = roundUp(at + f.code.length, FUNCTION_ALIGNMENT);
    return at;
  });
  const dynamicAt = roundUp(end, PAGE_BYTES);
  const dynamicEntries: readonly (readonly [number, number])[] = [
    [DT.SONAME, nameOffsets[0]!],
    [DT.HASH, hashAt],
    [DT.STRTAB, namesAt],
    [DT.SYMTAB, symbolsAt],
    [DT.STRSZ, nameTable.length],
    [DT.SYMENT, SYM_BYTES],
    [DT.NULL, 0],
  ];
  const dynamicBytes = dynamicEntries.length * DYN_BYTES;

  const image = new Uint8Array(dynamicAt + dynamicBytes);
  const view = new DataView(image.buffer);
  const put16 = (at: number, value: number): void => view.setUint16(at, value, true);
  const put32 = (at: number, value: number): void => view.setUint32(at, value, true);
  const put64 = (at: number, value: number): void => view.setBigUint64(at, BigInt(value), true);

  image.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]); // Magic, 64-bit, little-endian, version 1.
  put16(16, 3); // e_type ET_DYN
  put16(18, 62); // e_machine EM_X86_64
  put32(20, 1); // e_version
  put64(32, EHDR_BYTES); // e_phoff
  put16(52, EHDR_BYTES);
  put16(54, PHDR_BYTES);
  put16(56, NUM_PROGRAM_HEADERS);
  put16(58, 64); // e_shentsize; there are no sections

  let header = EHDR_BYTES;
  const segment = (type: number, flags: number, at: number, size: number, align: number): void => {
    put32(header, type);
    put32(header + 4, flags);
    for (const field of [8, 16, 24]) put64(header + field, at); // offset, vaddr, paddr
    for (const field of [32, 40]) put64(header + field, size); // filesz, memsz
    put64(header + 48, align);
    header += PHDR_BYTES;
  };
  segment(PT_LOAD, PF_R | PF_X, 0, end, PAGE_BYTES);
  segment(PT_LOAD, PF_R | PF_W, dynamicAt, dynamicBytes, PAGE_BYTES);
  segment(PT_DYNAMIC, PF_R | PF_W, dynamicAt, dynamicBytes, 8);
  segment(PT_GNU_STACK, PF_R | PF_W, 0, 0, 16); // Not an executable stack.

  // Hash table of one bucket whose chain runs through all symbols.
  put32(hashAt, 1);
  put32(hashAt + 4, numSymbols);
  put32(hashAt + 8, numSymbols > 1 ? 1 : 0);
  for (let i = 1; i < numSymbols - 1; i++) put32(hashAt + 12 + 4 * i, i + 1);

  functions.forEach((f, i) => {
    const symbol = symbolsAt + SYM_BYTES * (i + 1);
    put32(symbol, nameOffsets[i + 1]!);
    image[symbol + 4] = 0x12; // STB_GLOBAL, STT_FUNC
    put16(symbol + 6, 1); // Any section index but SHN_UNDEF.
    put64(symbol + 8, codeOffsets[i]!);
    put64(symbol + 16, f.code.length);
    image.set(f.code, codeOffsets[i]!);
  });
  for (let i = 0; i < nameTable.length; i++) image[namesAt + i] = nameTable.charCodeAt(i);
  dynamicEntries.forEach(([tag, value], i) => {
    put64(dynamicAt + DYN_BYTES * i, tag);
    put64(dynamicAt + DYN_BYTES * i + 8, value);
  });
  return image;
}
