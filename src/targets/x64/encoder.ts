/**
 * Turns opcode fields and operands into bytes: REX, VEX and EVEX prefixes, ModRM, SIB,
 * displacement (with EVEX disp8*N compression), immediates, labels and alignment.
 * Knows no mnemonics; those are in assembler-integer.ts and vector-instructions.ts.
 *
 * Encodings: Intel SDM volume 2, chapter 2 (2.1 ModRM/SIB, 2.3 VEX, 2.7 EVEX).
 */
import { AssemblerError } from './assembler-error.ts';
import { type Gpr, Label, type Mem, type Vec, type VecWidth } from './operands.ts';

/** Implied prefix: none, 66, F3, F2. */
export const PREFIX = { np: 0, '66': 1, F3: 2, F2: 3 } as const;
/** Opcode map of VEX and EVEX. */
export const OPCODE_MAP = { '0F': 1, '0F38': 2, '0F3A': 3 } as const;

/** Everything a VEX or EVEX instruction says besides its immediate. */
export interface VectorEncoding {
  readonly prefix: number;
  readonly map: number;
  readonly opcode: number;
  readonly w: 0 | 1;
  readonly width: VecWidth;
  /** ModRM.reg: register number, or the opcode extension /n. */
  readonly reg: number;
  /** The extra source or destination; 0 where the instruction has none. */
  readonly vvvv: number;
  readonly rm: Vec | Gpr | Mem | { readonly kind: 'mask'; readonly n: number };
  /** Bytes of immediate that follow, needed for RIP-relative references. */
  readonly immBytes: number;
}

export interface EvexEncoding extends VectorEncoding {
  /** Write mask k1-k7, 0 for none. */
  readonly mask: number;
  readonly zeroing: boolean;
  readonly broadcast: boolean;
  /** N of disp8*N: bytes of the memory operand (of one element under broadcast). */
  readonly dispScale: number;
}

interface Fixup {
  readonly label: Label;
  /** Where the 32-bit distance is stored. */
  readonly at: number;
  /** The place the distance counts from, minus any constant added. */
  readonly from: number;
}

/** Multi-byte nops of length 1-9 as recommended by Intel's and AMD's manuals. */
const NOPS: readonly (readonly number[])[] = [
  [],
  [0x90],
  [0x66, 0x90],
  [0x0f, 0x1f, 0],
  [0x0f, 0x1f, 0x40, 0],
  [0x0f, 0x1f, 0x44, 0, 0],
  [0x66, 0x0f, 0x1f, 0x44, 0, 0],
  [0x0f, 0x1f, 0x80, 0, 0, 0, 0],
  [0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
  [0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
];

export interface EncoderOptions {
  /** Record Intel-syntax text beside the bytes, for `listing()`. */
  readonly listing?: boolean;
}

export class Encoder {
  #bytes = new Uint8Array(4096);
  #length = 0;
  #labels: Label[] = [];
  #fixups: Fixup[] = [];
  #lines: { readonly offset: number; readonly text: string }[] | undefined;
  /** While set, nothing is recorded for the listing. */
  protected muted = false;

  constructor(options: EncoderOptions = {}) {
    this.#lines = options.listing ? [] : undefined;
  }

  /** Bytes emitted so far. */
  get length(): number {
    return this.#length;
  }

  /** Whether text is being recorded; lets callers skip formatting. */
  protected get isListing(): boolean {
    return this.#lines !== undefined && !this.muted;
  }

  /** Records the text of the instruction that starts here. */
  protected note(text: string): void {
    if (!this.muted) this.#lines?.push({ offset: this.#length, text });
  }

  /** Appends raw bytes (constants; each 0-255 or a signed byte). */
  db(...values: number[]): void {
    for (const value of values) this.emit8(value);
  }

  /** Appends a block of data, such as a constant table read through `ripMem`. */
  data(bytes: Uint8Array): void {
    for (const value of bytes) this.emit8(value);
  }

  protected emit8(value: number): void {
    if (this.#length === this.#bytes.length) {
      const grown = new Uint8Array(2 * this.#length);
      grown.set(this.#bytes);
      this.#bytes = grown;
    }
    this.#bytes[this.#length++] = value;
  }

  protected emit16(value: number): void {
    this.emit8(value);
    this.emit8(value >> 8);
  }

  protected emit32(value: number): void {
    this.emit8(value);
    this.emit8(value >> 8);
    this.emit8(value >> 16);
    this.emit8(value >> 24);
  }

  /** A new label, to be placed by `bind`. */
  label(): Label {
    const label = new Label(this.#labels.length);
    this.#labels.push(label);
    return label;
  }

  /** Places a label at the current position. */
  bind(label: Label): Label {
    if (this.#labels[label.id] !== label) {
      throw new AssemblerError('', 'label belongs to another assembler');
    }
    if (label.position !== undefined)
      throw new AssemblerError('', `label L${label.id} bound twice`);
    this.note(`L${label.id}:`);
    label.position = this.#length;
    return label;
  }

  /** A label bound to the current position. */
  here(): Label {
    return this.bind(this.label());
  }

  /** Pads with nops to a multiple of `alignment` bytes (a power of two up to 4096). */
  align(alignment: number): void {
    if (alignment < 1 || alignment > 4096 || (alignment & (alignment - 1)) !== 0) {
      throw new AssemblerError('', `alignment ${alignment}: expected a power of two up to 4096`);
    }
    let pad = -this.#length & (alignment - 1);
    if (pad > 0) this.note(`.p2align ${Math.log2(alignment)}`);
    while (pad > 0) {
      const size = Math.min(pad, NOPS.length - 1);
      this.db(...NOPS[size]!);
      pad -= size;
    }
  }

  /** Emits a 32-bit distance to `label` from `extra` bytes after the field's end, plus `addend`. */
  protected emitDistance(label: Label, extra = 0, addend = 0): void {
    if (this.#labels[label.id] !== label) {
      throw new AssemblerError('', 'label belongs to another assembler');
    }
    this.#fixups.push({ label, at: this.#length, from: this.#length + 4 + extra - addend });
    this.emit32(0);
  }

  /**
   * The finished code, a copy.
   * @throws {AssemblerError} if a label that is used was never bound
   */
  code(): Uint8Array {
    const out = this.#bytes.slice(0, this.#length);
    const view = new DataView(out.buffer);
    for (const { label, at, from } of this.#fixups) {
      if (label.position === undefined) {
        throw new AssemblerError('', `label L${label.id} is used at ${at} but never bound`);
      }
      view.setInt32(at, label.position - from, true);
    }
    return out;
  }

  /** Lines `offset  bytes  text`; needs the `listing` option. */
  listing(): string {
    const lines = this.#lines;
    if (lines === undefined) throw new AssemblerError('', 'made without the listing option');
    const code = this.code();
    return lines
      .map(({ offset, text }, i) => {
        if (text.endsWith(':')) return text;
        const bytes = code.subarray(offset, lines[i + 1]?.offset ?? code.length);
        const hex = Buffer.from(bytes).toString('hex');
        return `  ${offset.toString(16).padStart(4, '0')}  ${hex.padEnd(24)}  ${text}`;
      })
      .join('\n');
  }

  /** Instructions as recorded: start, end and text. Labels and padding are left out. */
  instructions(): { readonly text: string; readonly bytes: Uint8Array }[] {
    const lines = this.#lines;
    if (lines === undefined) throw new AssemblerError('', 'made without the listing option');
    const code = this.code();
    return lines.flatMap(({ offset, text }, i) =>
      text.endsWith(':') || text.startsWith('.')
        ? []
        : [{ text, bytes: code.subarray(offset, lines[i + 1]?.offset ?? code.length) }],
    );
  }

  /**
   * ModRM, SIB and displacement.
   * @param dispScale the N of disp8*N; 1 for legacy and VEX encodings
   * @param immBytes immediate bytes that follow, for RIP-relative distances
   */
  protected modrm(
    reg: number,
    rm: { readonly kind: 'gpr' | 'vec' | 'mask'; readonly n: number } | Mem,
    dispScale: number,
    immBytes: number,
  ): void {
    const regBits = (reg & 7) << 3;
    if (rm.kind !== 'mem') {
      this.emit8(0xc0 | regBits | (rm.n & 7));
      return;
    }
    if (rm.base === undefined) {
      if (rm.label === undefined) throw new AssemblerError('', 'memory operand without a base');
      this.emit8(regBits | 5);
      this.emitDistance(rm.label, immBytes, rm.disp);
      return;
    }
    const base = rm.base.n & 7;
    const { disp } = rm;
    const short = disp / dispScale;
    const isShort = Number.isInteger(short) && short >= -128 && short <= 127;
    // mod 0 with base 101 means RIP or no base, so rbp and r13 always carry a displacement.
    const mod = disp === 0 && base !== 5 ? 0 : isShort ? 1 : 2;
    if (rm.index !== undefined || base === 4) {
      // Base 100 means that a SIB byte follows, so rsp and r12 need one; index 100 is "none".
      const index = rm.index === undefined ? 4 : rm.index.n & 7;
      const scale = rm.scale === 8 ? 3 : rm.scale >> 1;
      this.emit8((mod << 6) | regBits | 4);
      this.emit8((scale << 6) | (index << 3) | base);
    } else {
      this.emit8((mod << 6) | regBits | base);
    }
    if (mod === 1) this.emit8(short);
    else if (mod === 2) this.emit32(disp);
  }

  /** REX prefix, where one is needed. `force` emits an empty one (spl, bpl, sil, dil). */
  protected rex(w: 0 | 1, reg: number, rm: Gpr | Mem, force = false): void {
    const x = rm.kind === 'mem' && rm.index !== undefined ? rm.index.n >> 3 : 0;
    const b = (rm.kind === 'mem' ? (rm.base?.n ?? 0) : rm.n) >> 3;
    const bits = (w << 3) | ((reg >> 3) << 2) | (x << 1) | b;
    if (bits !== 0 || force) this.emit8(0x40 | bits);
  }

  /** A VEX instruction without its immediate. Registers must be 0-15, the width at most 256. */
  protected vex(e: VectorEncoding): void {
    const { rm } = e;
    const r = (~e.reg >> 3) & 1;
    const x = rm.kind === 'mem' && rm.index !== undefined ? (~rm.index.n >> 3) & 1 : 1;
    const b = (~(rm.kind === 'mem' ? (rm.base?.n ?? 0) : rm.n) >> 3) & 1;
    const tail = ((~e.vvvv & 15) << 3) | (e.width === 256 ? 4 : 0) | e.prefix;
    if (x === 1 && b === 1 && e.w === 0 && e.map === 1) {
      this.emit8(0xc5);
      this.emit8((r << 7) | tail);
    } else {
      this.emit8(0xc4);
      this.emit8((r << 7) | (x << 6) | (b << 5) | e.map);
      this.emit8((e.w << 7) | tail);
    }
    this.emit8(e.opcode);
    this.modrm(e.reg, rm, 1, e.immBytes);
  }

  /** An EVEX instruction without its immediate. */
  protected evex(e: EvexEncoding): void {
    const { rm } = e;
    const isMem = rm.kind === 'mem';
    // With a register in ModRM.rm, X holds bit 4 of its number.
    const x = isMem ? (rm.index === undefined ? 1 : (~rm.index.n >> 3) & 1) : (~rm.n >> 4) & 1;
    const b = (~(isMem ? (rm.base?.n ?? 0) : rm.n) >> 3) & 1;
    const r = (~e.reg >> 3) & 1;
    const r2 = (~e.reg >> 4) & 1;
    const length = e.width === 512 ? 2 : e.width === 256 ? 1 : 0;
    this.emit8(0x62);
    this.emit8((r << 7) | (x << 6) | (b << 5) | (r2 << 4) | e.map);
    this.emit8((e.w << 7) | ((~e.vvvv & 15) << 3) | 4 | e.prefix);
    this.emit8(
      (e.zeroing ? 0x80 : 0) |
        (length << 5) |
        (e.broadcast ? 0x10 : 0) |
        (((~e.vvvv >> 4) & 1) << 3) |
        e.mask,
    );
    this.emit8(e.opcode);
    this.modrm(e.reg, rm, e.dispScale, e.immBytes);
  }
}
