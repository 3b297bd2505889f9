/**
 * Places activation buffers in one arena: buffers whose lifetimes do not meet share memory.
 *
 * Greedy by size: the largest buffer first, each at the lowest offset that is free during its whole lifetime (Pisarchyk & Lee 2020, arXiv:2001.03288).
 * Pure arithmetic on sizes and lifetimes.
 */

/** A cache line, and the alignment that kernels rely on. */
const ALIGNMENT = 64;

export interface BufferRequest {
  readonly sizeBytes: number;
  /** First and last command that touch it, inclusive. */
  readonly first: number;
  readonly last: number;
}

export interface MemoryPlan {
  /** Per request, a multiple of 64. */
  readonly offsets: readonly number[];
  readonly arenaBytes: number;
}

export function planMemory(requests: readonly BufferRequest[]): MemoryPlan {
  const sizes = requests.map((r) => Math.ceil(r.sizeBytes / ALIGNMENT) * ALIGNMENT);
  const order = requests.map((_, i) => i).sort((a, b) => sizes[b]! - sizes[a]! || a - b);
  const offsets = new Array<number>(requests.length).fill(0);
  const placed: number[] = [];
  let arenaBytes = 0;
  for (const i of order) {
    const request = requests[i]!;
    const neighbours = placed
      .filter((j) => requests[j]!.first <= request.last && request.first <= requests[j]!.last)
      .sort((a, b) => offsets[a]! - offsets[b]!);
    let offset = 0;
    for (const j of neighbours) {
      if (offset + sizes[i]! <= offsets[j]!) break;
      offset = Math.max(offset, offsets[j]! + sizes[j]!);
    }
    offsets[i] = offset;
    placed.push(i);
    arenaBytes = Math.max(arenaBytes, offset + sizes[i]!);
  }
  return { offsets, arenaBytes };
}
