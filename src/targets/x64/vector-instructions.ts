/**
 * The vector and mask instructions the assembler knows, one `form` per row of the manual
 * (Intel SDM volume 2, chapters 3-5). Pure data; see vector-form.ts for the notation.
 *
 * Mnemonics are Intel's. Three groups bend that, so that one kernel text serves every width:
 * `vpand vpandn vpor vpxor` become their `…d` form and `vmovdqu vmovdqa` their `…32` form where
 * EVEX is needed; the VEX encodings of the dot products (AVX-VNNI) are named `…Vex`.
 */
import { form } from './vector-form.ts';

const WIDE = [256, 512] as const;
const YMM_ONLY = [256] as const;
const ZMM_ONLY = [512] as const;
const XMM_ONLY = [128] as const;

/** dst, a, b/mem in both encodings, no broadcast (bytes and words). */
const packed = (opcode: string) => form('v v v/m', 'RVM', opcode, { vex: 0, evex: 0 });
/** dst, a, b/mem in both encodings, 32-bit elements. */
const packed32 = (opcode: string) => form('v v v/m', 'RVM', opcode, { vex: 0, evex: 0, bcst: 32 });
/** dst, a, b/mem in both encodings, 64-bit elements. */
const packed64 = (opcode: string) => form('v v v/m', 'RVM', opcode, { vex: 0, evex: 1, bcst: 64 });
const vexOnly = (opcode: string) => form('v v v/m', 'RVM', opcode, { vex: 0 });
const evex32 = (opcode: string) => form('v v v/m', 'RVM', opcode, { evex: 0, bcst: 32 });
const evex64 = (opcode: string) => form('v v v/m', 'RVM', opcode, { evex: 1, bcst: 64 });
/** dst, src/mem in both encodings, 32-bit elements. */
const unary32 = (opcode: string) => form('v v/m', 'RM', opcode, { vex: 0, evex: 0, bcst: 32 });
/** Scalar single precision: the low element is computed, the rest comes from the first source. */
const scalar32 = (opcode: string) => form('x x x/m32', 'RVM', opcode, { vex: 0, evex: 0 });
/** Bitwise: VEX has no element size; EVEX needs one, which only matters for masks. */
const bitwise = (opcode: string, name: string) =>
  form('v v v/m', 'RVM', opcode, { vex: 0, evex: 0, bcst: 32, evexName: `${name}d` });
/** Load, register copy and store. */
const moves = (load: string, store: string, options: Parameters<typeof form>[3]) =>
  [form('v v/m', 'RM', load, options), form('m v', 'MR', store, options)] as const;
/** Comparison: VEX fills a vector with all ones or zeros, EVEX sets bits of a mask register. */
const compare = (opcode: string, evexW: 0 | 1, bcst?: 32 | 64) =>
  [
    form('v v v/m', 'RVM', opcode, { vex: 0 }),
    form('k v v/m', 'RVM', opcode, { evex: evexW, ...(bcst && { bcst }) }),
  ] as const;
/** Shift: by an immediate (/ext), or by the low 64 bits of an xmm register. */
const shift = (immediate: string, ext: number, byXmm: string, evexW: 0 | 1 = 0, bcst?: 32 | 64) =>
  [
    form('v v i', 'VMI', immediate, { vex: 0, evex: evexW, ext }),
    form('v m i', 'VMI', immediate, { evex: evexW, ext, ...(bcst && { bcst }) }),
    form('v v x/m128', 'RVM', byXmm, { vex: 0, evex: evexW }),
  ] as const;
const broadcastInteger = (element: 8 | 16 | 32 | 64, vector: string, general: string, w: 0 | 1) =>
  [
    form(`v x/m${element}`, 'RM', vector, { vex: 0, evex: w }),
    form(element === 64 ? 'v r64' : 'v r32', 'RM', general, { evex: w }),
  ] as const;
/** Narrowing store or move: dst holds L/2 or L/4. */
const narrowHalf = (opcode: string) => form('h/m v', 'MR', opcode, { evex: 0 });
const narrowQuarter = (opcode: string) => form('q/m v', 'MR', opcode, { evex: 0 });
const extendHalf = (opcode: string) => form('v h/m', 'RM', opcode, { vex: 0, evex: 0 });
const extendQuarter = (opcode: string) => form('v q/m', 'RM', opcode, { vex: 0, evex: 0 });
const extendEighth = (opcode: string) => form('v e/m', 'RM', opcode, { vex: 0, evex: 0 });
/** Mask register logic; VEX.L is 1 where there are three operands. */
const maskLogic = (prefix: string, w: 0 | 1, opcode: string) =>
  form('k k k', 'RVM', `${prefix}.0F ${opcode}`, { vex: w, widths: YMM_ONLY });
const maskUnary = (prefix: string, w: 0 | 1, opcode: string) =>
  form('k k', 'RM', `${prefix}.0F ${opcode}`, { vex: w, widths: XMM_ONLY });
const maskShift = (opcode: string, w: 0 | 1) =>
  form('k k i', 'RMI', `66.0F3A ${opcode}`, { vex: w, widths: XMM_ONLY });

export const VECTOR_INSTRUCTIONS = {
  // --- moves ---
  vmovups: moves('np.0F 10', 'np.0F 11', { vex: 0, evex: 0 }),
  vmovaps: moves('np.0F 28', 'np.0F 29', { vex: 0, evex: 0 }),
  vmovdqu: moves('F3.0F 6F', 'F3.0F 7F', { vex: 0, evex: 0, evexName: 'vmovdqu32' }),
  vmovdqa: moves('66.0F 6F', '66.0F 7F', { vex: 0, evex: 0, evexName: 'vmovdqa32' }),
  vmovdqu8: moves('F2.0F 6F', 'F2.0F 7F', { evex: 0 }),
  vmovdqu16: moves('F2.0F 6F', 'F2.0F 7F', { evex: 1 }),
  vmovdqu32: moves('F3.0F 6F', 'F3.0F 7F', { evex: 0 }),
  vmovdqu64: moves('F3.0F 6F', 'F3.0F 7F', { evex: 1 }),
  vmovntps: form('m v', 'MR', 'np.0F 2B', { vex: 0, evex: 0, unmasked: true }),
  vmovntdq: form('m v', 'MR', '66.0F E7', { vex: 0, evex: 0, unmasked: true }),
  vmovss: [
    form('x m32', 'RM', 'F3.0F 10', { vex: 0, evex: 0 }),
    form('m32 x', 'MR', 'F3.0F 11', { vex: 0, evex: 0 }),
    form('x x x', 'RVM', 'F3.0F 10', { vex: 0, evex: 0 }),
  ],
  vmovsd: [
    form('x m64', 'RM', 'F2.0F 10', { vex: 0, evex: 1 }),
    form('m64 x', 'MR', 'F2.0F 11', { vex: 0, evex: 1 }),
    form('x x x', 'RVM', 'F2.0F 10', { vex: 0, evex: 1 }),
  ],
  vmovd: [
    form('x r32/m32', 'RM', '66.0F 6E', { vex: 0, evex: 0, unmasked: true }),
    form('r32/m32 x', 'MR', '66.0F 7E', { vex: 0, evex: 0, unmasked: true }),
  ],
  vmovq: [
    form('x m64', 'RM', 'F3.0F 7E', { vex: 0 }),
    form('m64 x', 'MR', '66.0F D6', { vex: 0 }),
    form('x x', 'RM', 'F3.0F 7E', { vex: 0, evex: 1, unmasked: true }),
    form('x r64/m64', 'RM', '66.0F 6E', { vex: 1, evex: 1, unmasked: true }),
    form('r64/m64 x', 'MR', '66.0F 7E', { vex: 1, evex: 1, unmasked: true }),
  ],
  vmaskmovps: [
    form('v v m', 'RVM', '66.0F38 2C', { vex: 0 }),
    form('m v v', 'MVR', '66.0F38 2E', { vex: 0 }),
  ],
  vpmaskmovd: [
    form('v v m', 'RVM', '66.0F38 8C', { vex: 0 }),
    form('m v v', 'MVR', '66.0F38 8E', { vex: 0 }),
  ],
  vmovhlps: form('x x x', 'RVM', 'np.0F 12', { vex: 0, evex: 0, unmasked: true }),
  vmovlhps: form('x x x', 'RVM', 'np.0F 16', { vex: 0, evex: 0, unmasked: true }),
  vmovsldup: form('v v/m', 'RM', 'F3.0F 12', { vex: 0, evex: 0 }),
  vmovshdup: form('v v/m', 'RM', 'F3.0F 16', { vex: 0, evex: 0 }),

  // --- broadcasts, parts of registers ---
  vbroadcastss: form('v x/m32', 'RM', '66.0F38 18', { vex: 0, evex: 0 }),
  vbroadcastsd: form('v x/m64', 'RM', '66.0F38 19', { vex: 0, evex: 1, widths: WIDE }),
  vbroadcastf128: form('v m128', 'RM', '66.0F38 1A', { vex: 0, widths: YMM_ONLY }),
  vbroadcasti128: form('v m128', 'RM', '66.0F38 5A', { vex: 0, widths: YMM_ONLY }),
  vbroadcastf32x4: form('v m128', 'RM', '66.0F38 1A', { evex: 0, widths: WIDE }),
  vbroadcasti32x4: form('v m128', 'RM', '66.0F38 5A', { evex: 0, widths: WIDE }),
  vbroadcastf64x4: form('v m256', 'RM', '66.0F38 1B', { evex: 1, widths: ZMM_ONLY }),
  vbroadcasti64x4: form('v m256', 'RM', '66.0F38 5B', { evex: 1, widths: ZMM_ONLY }),
  vpbroadcastb: broadcastInteger(8, '66.0F38 78', '66.0F38 7A', 0),
  vpbroadcastw: broadcastInteger(16, '66.0F38 79', '66.0F38 7B', 0),
  vpbroadcastd: broadcastInteger(32, '66.0F38 58', '66.0F38 7C', 0),
  vpbroadcastq: broadcastInteger(64, '66.0F38 59', '66.0F38 7C', 1),
  vinsertf128: form('v v x/m128 i', 'RVMI', '66.0F3A 18', { vex: 0, widths: YMM_ONLY }),
  vinserti128: form('v v x/m128 i', 'RVMI', '66.0F3A 38', { vex: 0, widths: YMM_ONLY }),
  vextractf128: form('x/m128 v i', 'MRI', '66.0F3A 19', { vex: 0, widths: YMM_ONLY }),
  vextracti128: form('x/m128 v i', 'MRI', '66.0F3A 39', { vex: 0, widths: YMM_ONLY }),
  vinsertf32x4: form('v v x/m128 i', 'RVMI', '66.0F3A 18', { evex: 0, widths: WIDE }),
  vinserti32x4: form('v v x/m128 i', 'RVMI', '66.0F3A 38', { evex: 0, widths: WIDE }),
  vinsertf64x4: form('v v y/m256 i', 'RVMI', '66.0F3A 1A', { evex: 1, widths: ZMM_ONLY }),
  vinserti64x4: form('v v y/m256 i', 'RVMI', '66.0F3A 3A', { evex: 1, widths: ZMM_ONLY }),
  vextractf32x4: form('x/m128 v i', 'MRI', '66.0F3A 19', { evex: 0, widths: WIDE }),
  vextracti32x4: form('x/m128 v i', 'MRI', '66.0F3A 39', { evex: 0, widths: WIDE }),
  vextractf64x4: form('y/m256 v i', 'MRI', '66.0F3A 1B', { evex: 1, widths: ZMM_ONLY }),
  vextracti64x4: form('y/m256 v i', 'MRI', '66.0F3A 3B', { evex: 1, widths: ZMM_ONLY }),
  vinsertps: form('x x x/m32 i', 'RVMI', '66.0F3A 21', { vex: 0, evex: 0, unmasked: true }),
  vpinsrb: form('x x r32/m8 i', 'RVMI', '66.0F3A 20', { vex: 0, evex: 0, unmasked: true }),
  vpinsrw: form('x x r32/m16 i', 'RVMI', '66.0F C4', { vex: 0, evex: 0, unmasked: true }),
  vpinsrd: form('x x r32/m32 i', 'RVMI', '66.0F3A 22', { vex: 0, evex: 0, unmasked: true }),
  vpinsrq: form('x x r64/m64 i', 'RVMI', '66.0F3A 22', { vex: 1, evex: 1, unmasked: true }),
  vpextrb: form('r32/m8 x i', 'MRI', '66.0F3A 14', { vex: 0, evex: 0, unmasked: true }),
  vpextrd: form('r32/m32 x i', 'MRI', '66.0F3A 16', { vex: 0, evex: 0, unmasked: true }),
  vpextrq: form('r64/m64 x i', 'MRI', '66.0F3A 16', { vex: 1, evex: 1, unmasked: true }),
  vpextrw: [
    form('r32 x i', 'RMI', '66.0F C5', { vex: 0, evex: 0, unmasked: true }),
    form('m16 x i', 'MRI', '66.0F3A 15', { vex: 0, evex: 0, unmasked: true }),
  ],
  vextractps: form('r32/m32 x i', 'MRI', '66.0F3A 17', { vex: 0, evex: 0, unmasked: true }),

  // --- shuffles ---
  vpermilps: [
    form('v v/m i', 'RMI', '66.0F3A 04', { vex: 0, evex: 0, bcst: 32 }),
    form('v v v/m', 'RVM', '66.0F38 0C', { vex: 0, evex: 0, bcst: 32 }),
  ],
  vpermps: form('v v v/m', 'RVM', '66.0F38 16', { vex: 0, evex: 0, bcst: 32, widths: WIDE }),
  vpermd: form('v v v/m', 'RVM', '66.0F38 36', { vex: 0, evex: 0, bcst: 32, widths: WIDE }),
  vpermb: form('v v v/m', 'RVM', '66.0F38 8D', { evex: 0 }),
  vpermw: form('v v v/m', 'RVM', '66.0F38 8D', { evex: 1 }),
  vpermq: form('v v/m i', 'RMI', '66.0F3A 00', { vex: 1, evex: 1, bcst: 64, widths: WIDE }),
  vpermpd: form('v v/m i', 'RMI', '66.0F3A 01', { vex: 1, evex: 1, bcst: 64, widths: WIDE }),
  vpermt2d: evex32('66.0F38 7E'),
  vpermt2ps: evex32('66.0F38 7F'),
  vpermi2d: evex32('66.0F38 76'),
  vpermi2ps: evex32('66.0F38 77'),
  vperm2f128: form('v v v/m i', 'RVMI', '66.0F3A 06', { vex: 0, widths: YMM_ONLY }),
  vperm2i128: form('v v v/m i', 'RVMI', '66.0F3A 46', { vex: 0, widths: YMM_ONLY }),
  vshuff32x4: form('v v v/m i', 'RVMI', '66.0F3A 23', { evex: 0, bcst: 32, widths: WIDE }),
  vshufi32x4: form('v v v/m i', 'RVMI', '66.0F3A 43', { evex: 0, bcst: 32, widths: WIDE }),
  vshufps: form('v v v/m i', 'RVMI', 'np.0F C6', { vex: 0, evex: 0, bcst: 32 }),
  vunpcklps: packed32('np.0F 14'),
  vunpckhps: packed32('np.0F 15'),
  vunpcklpd: packed64('66.0F 14'),
  vunpckhpd: packed64('66.0F 15'),
  vpunpcklbw: packed('66.0F 60'),
  vpunpcklwd: packed('66.0F 61'),
  vpunpckldq: packed32('66.0F 62'),
  vpunpcklqdq: packed64('66.0F 6C'),
  vpunpckhbw: packed('66.0F 68'),
  vpunpckhwd: packed('66.0F 69'),
  vpunpckhdq: packed32('66.0F 6A'),
  vpunpckhqdq: packed64('66.0F 6D'),
  vpshufd: form('v v/m i', 'RMI', '66.0F 70', { vex: 0, evex: 0, bcst: 32 }),
  vpshuflw: form('v v/m i', 'RMI', 'F2.0F 70', { vex: 0, evex: 0 }),
  vpshufhw: form('v v/m i', 'RMI', 'F3.0F 70', { vex: 0, evex: 0 }),
  vpshufb: packed('66.0F38 00'),
  vpalignr: form('v v v/m i', 'RVMI', '66.0F3A 0F', { vex: 0, evex: 0 }),
  valignd: form('v v v/m i', 'RVMI', '66.0F3A 03', { evex: 0, bcst: 32 }),
  valignq: form('v v v/m i', 'RVMI', '66.0F3A 03', { evex: 1, bcst: 64 }),
  vpslldq: form('v v i', 'VMI', '66.0F 73', { vex: 0, evex: 0, unmasked: true, ext: 7 }),
  vpsrldq: form('v v i', 'VMI', '66.0F 73', { vex: 0, evex: 0, unmasked: true, ext: 3 }),
  vblendps: form('v v v/m i', 'RVMI', '66.0F3A 0C', { vex: 0 }),
  vpblendd: form('v v v/m i', 'RVMI', '66.0F3A 02', { vex: 0 }),
  vpblendw: form('v v v/m i', 'RVMI', '66.0F3A 0E', { vex: 0 }),
  vblendvps: form('v v v/m v', 'RVMS', '66.0F3A 4A', { vex: 0 }),
  vpblendvb: form('v v v/m v', 'RVMS', '66.0F3A 4C', { vex: 0 }),
  vblendmps: evex32('66.0F38 65'),
  vpblendmd: evex32('66.0F38 64'),
  vpblendmb: form('v v v/m', 'RVM', '66.0F38 66', { evex: 0 }),

  // --- packing and extension ---
  vpacksswb: packed('66.0F 63'),
  vpackuswb: packed('66.0F 67'),
  vpackssdw: packed32('66.0F 6B'),
  vpackusdw: packed32('66.0F38 2B'),
  vpmovsxbw: extendHalf('66.0F38 20'),
  vpmovsxbd: extendQuarter('66.0F38 21'),
  vpmovsxbq: extendEighth('66.0F38 22'),
  vpmovsxwd: extendHalf('66.0F38 23'),
  vpmovsxwq: extendQuarter('66.0F38 24'),
  vpmovsxdq: extendHalf('66.0F38 25'),
  vpmovzxbw: extendHalf('66.0F38 30'),
  vpmovzxbd: extendQuarter('66.0F38 31'),
  vpmovzxbq: extendEighth('66.0F38 32'),
  vpmovzxwd: extendHalf('66.0F38 33'),
  vpmovzxwq: extendQuarter('66.0F38 34'),
  vpmovzxdq: extendHalf('66.0F38 35'),
  vpmovdb: narrowQuarter('F3.0F38 31'),
  vpmovsdb: narrowQuarter('F3.0F38 21'),
  vpmovusdb: narrowQuarter('F3.0F38 11'),
  vpmovdw: narrowHalf('F3.0F38 33'),
  vpmovsdw: narrowHalf('F3.0F38 23'),
  vpmovusdw: narrowHalf('F3.0F38 13'),
  vpmovwb: narrowHalf('F3.0F38 30'),
  vpmovswb: narrowHalf('F3.0F38 20'),
  vpmovuswb: narrowHalf('F3.0F38 10'),

  // --- single precision arithmetic ---
  vaddps: packed32('np.0F 58'),
  vmulps: packed32('np.0F 59'),
  vsubps: packed32('np.0F 5C'),
  vminps: packed32('np.0F 5D'),
  vdivps: packed32('np.0F 5E'),
  vmaxps: packed32('np.0F 5F'),
  vsqrtps: unary32('np.0F 51'),
  vrsqrtps: form('v v/m', 'RM', 'np.0F 52', { vex: 0 }),
  vrcpps: form('v v/m', 'RM', 'np.0F 53', { vex: 0 }),
  vrsqrt14ps: form('v v/m', 'RM', '66.0F38 4E', { evex: 0, bcst: 32 }),
  vrcp14ps: form('v v/m', 'RM', '66.0F38 4C', { evex: 0, bcst: 32 }),
  vhaddps: vexOnly('F2.0F 7C'),
  vandps: packed32('np.0F 54'),
  vandnps: packed32('np.0F 55'),
  vorps: packed32('np.0F 56'),
  vxorps: packed32('np.0F 57'),
  vfmadd132ps: packed32('66.0F38 98'),
  vfmadd213ps: packed32('66.0F38 A8'),
  vfmadd231ps: packed32('66.0F38 B8'),
  vfmsub132ps: packed32('66.0F38 9A'),
  vfmsub213ps: packed32('66.0F38 AA'),
  vfmsub231ps: packed32('66.0F38 BA'),
  vfnmadd132ps: packed32('66.0F38 9C'),
  vfnmadd213ps: packed32('66.0F38 AC'),
  vfnmadd231ps: packed32('66.0F38 BC'),
  vroundps: form('v v/m i', 'RMI', '66.0F3A 08', { vex: 0 }),
  vrndscaleps: form('v v/m i', 'RMI', '66.0F3A 08', { evex: 0, bcst: 32 }),
  vscalefps: evex32('66.0F38 2C'),
  vcmpps: [
    form('v v v/m i', 'RVMI', 'np.0F C2', { vex: 0 }),
    form('k v v/m i', 'RVMI', 'np.0F C2', { evex: 0, bcst: 32 }),
  ],
  vmovmskps: form('r32 v', 'RM', 'np.0F 50', { vex: 0 }),

  // --- conversions ---
  vcvtdq2ps: unary32('np.0F 5B'),
  vcvtps2dq: unary32('66.0F 5B'),
  vcvttps2dq: unary32('F3.0F 5B'),
  vcvtph2ps: form('v h/m', 'RM', '66.0F38 13', { vex: 0, evex: 0 }),
  vcvtps2ph: form('h/m v i', 'MRI', '66.0F3A 1D', { vex: 0, evex: 0 }),
  vcvtne2ps2bf16: evex32bf16('72'),
  vcvtneps2bf16: form('h v', 'RM', 'F3.0F38 72', { evex: 0 }),
  vdpbf16ps: form('v v v/m', 'RVM', 'F3.0F38 52', { evex: 0, bcst: 32 }),

  // --- scalar single precision ---
  vaddss: scalar32('F3.0F 58'),
  vmulss: scalar32('F3.0F 59'),
  vsubss: scalar32('F3.0F 5C'),
  vminss: scalar32('F3.0F 5D'),
  vdivss: scalar32('F3.0F 5E'),
  vmaxss: scalar32('F3.0F 5F'),
  vsqrtss: scalar32('F3.0F 51'),
  vfmadd132ss: scalar32('66.0F38 99'),
  vfmadd213ss: scalar32('66.0F38 A9'),
  vfmadd231ss: scalar32('66.0F38 B9'),
  vfnmadd213ss: scalar32('66.0F38 AD'),
  vfnmadd231ss: scalar32('66.0F38 BD'),
  vroundss: form('x x x/m32 i', 'RVMI', '66.0F3A 0A', { vex: 0 }),
  vscalefss: form('x x x/m32', 'RVM', '66.0F38 2D', { evex: 0 }),
  vcvtsi2ss: [
    form('x x r32/m32', 'RVM', 'F3.0F 2A', { vex: 0, evex: 0, unmasked: true }),
    form('x x r64', 'RVM', 'F3.0F 2A', { vex: 1, evex: 1, unmasked: true }),
  ],
  vcvttss2si: [
    form('r32 x/m32', 'RM', 'F3.0F 2C', { vex: 0, evex: 0 }),
    form('r64 x/m32', 'RM', 'F3.0F 2C', { vex: 1, evex: 1 }),
  ],
  vcvtss2si: [
    form('r32 x/m32', 'RM', 'F3.0F 2D', { vex: 0, evex: 0 }),
    form('r64 x/m32', 'RM', 'F3.0F 2D', { vex: 1, evex: 1 }),
  ],
  vucomiss: form('x x/m32', 'RM', 'np.0F 2E', { vex: 0, evex: 0, unmasked: true }),
  vcomiss: form('x x/m32', 'RM', 'np.0F 2F', { vex: 0, evex: 0, unmasked: true }),

  // --- integer ---
  vpand: bitwise('66.0F DB', 'vpand'),
  vpandn: bitwise('66.0F DF', 'vpandn'),
  vpor: bitwise('66.0F EB', 'vpor'),
  vpxor: bitwise('66.0F EF', 'vpxor'),
  vpandd: evex32('66.0F DB'),
  vpandnd: evex32('66.0F DF'),
  vpord: evex32('66.0F EB'),
  vpxord: evex32('66.0F EF'),
  vpandq: evex64('66.0F DB'),
  vpandnq: evex64('66.0F DF'),
  vporq: evex64('66.0F EB'),
  vpxorq: evex64('66.0F EF'),
  vpternlogd: form('v v v/m i', 'RVMI', '66.0F3A 25', { evex: 0, bcst: 32 }),
  vpternlogq: form('v v v/m i', 'RVMI', '66.0F3A 25', { evex: 1, bcst: 64 }),
  vpaddb: packed('66.0F FC'),
  vpaddw: packed('66.0F FD'),
  vpaddd: packed32('66.0F FE'),
  vpaddq: packed64('66.0F D4'),
  vpsubb: packed('66.0F F8'),
  vpsubw: packed('66.0F F9'),
  vpsubd: packed32('66.0F FA'),
  vpsubq: packed64('66.0F FB'),
  vpaddsb: packed('66.0F EC'),
  vpaddsw: packed('66.0F ED'),
  vpaddusb: packed('66.0F DC'),
  vpaddusw: packed('66.0F DD'),
  vpsubsb: packed('66.0F E8'),
  vpsubsw: packed('66.0F E9'),
  vpsubusb: packed('66.0F D8'),
  vpabsb: form('v v/m', 'RM', '66.0F38 1C', { vex: 0, evex: 0 }),
  vpabsw: form('v v/m', 'RM', '66.0F38 1D', { vex: 0, evex: 0 }),
  vpabsd: unary32('66.0F38 1E'),
  vpsignb: vexOnly('66.0F38 08'),
  vpsignw: vexOnly('66.0F38 09'),
  vpsignd: vexOnly('66.0F38 0A'),
  vphaddw: vexOnly('66.0F38 01'),
  vphaddd: vexOnly('66.0F38 02'),
  vpsadbw: form('v v v/m', 'RVM', '66.0F F6', { vex: 0, evex: 0, unmasked: true }),
  vpmaddubsw: packed('66.0F38 04'),
  vpmaddwd: packed('66.0F F5'),
  vpmulld: packed32('66.0F38 40'),
  vpmullw: packed('66.0F D5'),
  vpmulhw: packed('66.0F E5'),
  vpmulhuw: packed('66.0F E4'),
  vpmulhrsw: packed('66.0F38 0B'),
  vpmuldq: packed64('66.0F38 28'),
  vpmuludq: packed64('66.0F F4'),
  vpmaxsb: packed('66.0F38 3C'),
  vpmaxsw: packed('66.0F EE'),
  vpmaxsd: packed32('66.0F38 3D'),
  vpmaxub: packed('66.0F DE'),
  vpmaxuw: packed('66.0F38 3E'),
  vpmaxud: packed32('66.0F38 3F'),
  vpminsb: packed('66.0F38 38'),
  vpminsw: packed('66.0F EA'),
  vpminsd: packed32('66.0F38 39'),
  vpminub: packed('66.0F DA'),
  vpminuw: packed('66.0F38 3A'),
  vpminud: packed32('66.0F38 3B'),

  // --- dot products: AVX512-VNNI, and AVX-VNNI under names of their own ---
  vpdpbusd: dotProduct('50', 'vpdpbusd'),
  vpdpbusds: dotProduct('51', 'vpdpbusds'),
  vpdpwssd: dotProduct('52', 'vpdpwssd'),
  vpdpwssds: dotProduct('53', 'vpdpwssds'),
  vpdpbusdVex: dotProductVex('50', 'vpdpbusd'),
  vpdpbusdsVex: dotProductVex('51', 'vpdpbusds'),
  vpdpwssdVex: dotProductVex('52', 'vpdpwssd'),
  vpdpwssdsVex: dotProductVex('53', 'vpdpwssds'),

  // --- shifts ---
  vpsllw: shift('66.0F 71', 6, '66.0F F1'),
  vpsrlw: shift('66.0F 71', 2, '66.0F D1'),
  vpsraw: shift('66.0F 71', 4, '66.0F E1'),
  vpslld: shift('66.0F 72', 6, '66.0F F2', 0, 32),
  vpsrld: shift('66.0F 72', 2, '66.0F D2', 0, 32),
  vpsrad: shift('66.0F 72', 4, '66.0F E2', 0, 32),
  vpsllq: shift('66.0F 73', 6, '66.0F F3', 1, 64),
  vpsrlq: shift('66.0F 73', 2, '66.0F D3', 1, 64),
  vpsllvd: packed32('66.0F38 47'),
  vpsrlvd: packed32('66.0F38 45'),
  vpsravd: packed32('66.0F38 46'),
  vpsllvq: form('v v v/m', 'RVM', '66.0F38 47', { vex: 1, evex: 1, bcst: 64 }),
  vpsrlvq: form('v v v/m', 'RVM', '66.0F38 45', { vex: 1, evex: 1, bcst: 64 }),
  vpsllvw: form('v v v/m', 'RVM', '66.0F38 12', { evex: 1 }),
  vpsrlvw: form('v v v/m', 'RVM', '66.0F38 10', { evex: 1 }),

  // --- comparisons and tests ---
  vpcmpeqb: compare('66.0F 74', 0),
  vpcmpeqw: compare('66.0F 75', 0),
  vpcmpeqd: compare('66.0F 76', 0, 32),
  vpcmpgtb: compare('66.0F 64', 0),
  vpcmpgtw: compare('66.0F 65', 0),
  vpcmpgtd: compare('66.0F 66', 0, 32),
  vpcmpeqq: compare('66.0F38 29', 1, 64),
  vpcmpgtq: compare('66.0F38 37', 1, 64),
  vpcmpb: form('k v v/m i', 'RVMI', '66.0F3A 3F', { evex: 0 }),
  vpcmpub: form('k v v/m i', 'RVMI', '66.0F3A 3E', { evex: 0 }),
  vpcmpd: form('k v v/m i', 'RVMI', '66.0F3A 1F', { evex: 0, bcst: 32 }),
  vpcmpud: form('k v v/m i', 'RVMI', '66.0F3A 1E', { evex: 0, bcst: 32 }),
  vptestmb: form('k v v/m', 'RVM', '66.0F38 26', { evex: 0 }),
  vptestmd: form('k v v/m', 'RVM', '66.0F38 27', { evex: 0, bcst: 32 }),
  vptestnmd: form('k v v/m', 'RVM', 'F3.0F38 27', { evex: 0, bcst: 32 }),
  vpmovmskb: form('r32 v', 'RM', '66.0F D7', { vex: 0 }),
  vptest: form('v v/m', 'RM', '66.0F38 17', { vex: 0 }),
  vtestps: form('v v/m', 'RM', '66.0F38 0E', { vex: 0 }),
  vpmovm2b: form('v k', 'RM', 'F3.0F38 28', { evex: 0, unmasked: true }),
  vpmovm2d: form('v k', 'RM', 'F3.0F38 38', { evex: 0, unmasked: true }),
  vpmovb2m: form('k v', 'RM', 'F3.0F38 29', { evex: 0, unmasked: true }),
  vpmovd2m: form('k v', 'RM', 'F3.0F38 39', { evex: 0, unmasked: true }),

  // --- mask registers ---
  kmovb: [
    form('k k/m8', 'RM', '66.0F 90', { vex: 0 }),
    form('m8 k', 'MR', '66.0F 91', { vex: 0 }),
    form('k r32', 'RM', '66.0F 92', { vex: 0 }),
    form('r32 k', 'RM', '66.0F 93', { vex: 0 }),
  ],
  kmovw: [
    form('k k/m16', 'RM', 'np.0F 90', { vex: 0 }),
    form('m16 k', 'MR', 'np.0F 91', { vex: 0 }),
    form('k r32', 'RM', 'np.0F 92', { vex: 0 }),
    form('r32 k', 'RM', 'np.0F 93', { vex: 0 }),
  ],
  kmovd: [
    form('k k/m32', 'RM', '66.0F 90', { vex: 1 }),
    form('m32 k', 'MR', '66.0F 91', { vex: 1 }),
    form('k r32', 'RM', 'F2.0F 92', { vex: 0 }),
    form('r32 k', 'RM', 'F2.0F 93', { vex: 0 }),
  ],
  kmovq: [
    form('k k/m64', 'RM', 'np.0F 90', { vex: 1 }),
    form('m64 k', 'MR', 'np.0F 91', { vex: 1 }),
    form('k r64', 'RM', 'F2.0F 92', { vex: 1 }),
    form('r64 k', 'RM', 'F2.0F 93', { vex: 1 }),
  ],
  kortestb: maskUnary('66', 0, '98'),
  kortestw: maskUnary('np', 0, '98'),
  kortestd: maskUnary('66', 1, '98'),
  kortestq: maskUnary('np', 1, '98'),
  knotb: maskUnary('66', 0, '44'),
  knotw: maskUnary('np', 0, '44'),
  knotd: maskUnary('66', 1, '44'),
  knotq: maskUnary('np', 1, '44'),
  kandb: maskLogic('66', 0, '41'),
  kandw: maskLogic('np', 0, '41'),
  kandd: maskLogic('66', 1, '41'),
  kandq: maskLogic('np', 1, '41'),
  kandnw: maskLogic('np', 0, '42'),
  korw: maskLogic('np', 0, '45'),
  korq: maskLogic('np', 1, '45'),
  kxnorw: maskLogic('np', 0, '46'),
  kxorw: maskLogic('np', 0, '47'),
  kshiftlw: maskShift('32', 1),
  kshiftrw: maskShift('30', 1),
  kshiftlq: maskShift('33', 1),
  kshiftrq: maskShift('31', 1),
} as const;

function dotProduct(opcode: string, name: string) {
  const options = { evex: 0, bcst: 32, evexName: `{evex} ${name}` } as const;
  return form('v v v/m', 'RVM', `66.0F38 ${opcode}`, options);
}

function dotProductVex(opcode: string, name: string) {
  return form('v v v/m', 'RVM', `66.0F38 ${opcode}`, { vex: 0, vexName: `{vex} ${name}` });
}

function evex32bf16(opcode: string) {
  return form('v v v/m', 'RVM', `F2.0F38 ${opcode}`, { evex: 0, bcst: 32 });
}

export type VectorMnemonic = keyof typeof VECTOR_INSTRUCTIONS;
