/**
 * Attention over a paged KV cache as a model runs it: layers one after another on a team of threads, each with a cache of its own, so that the keys and
 * values of a layer come from memory again in every round. And the same memory read by threads that do nothing else.
 */

import { spanStateBytes } from '../../src/kernels/attention-spans.ts';
import { KernelBuilder } from '../../src/kernels/builder.ts';
import type { KernelProgram, VectorMachine } from '../../src/kernels/kernel-ir.ts';
import { keyBlockBytes, kvBlockSize, valueBlockBytes } from '../../src/kernels/kv-layout.ts';
import { mergeAttentionKernel } from '../../src/kernels/merge-attention.ts';
import { pagedAttentionKernel } from '../../src/kernels/paged-attention.ts';
import { SPAN_TOKENS, TILE_ENTRY } from '../../src/kernels/tile-entry.ts';
import {
  allocate,
  f32,
  i32,
  type NativeRegion,
  u32,
  u64,
} from '../../src/platform/native-memory.ts';
import { AttentionTiles, maxTileEntries } from '../../src/runtime/attention-tiles.ts';
import { ThreadTeam } from '../../src/runtime/thread-team.ts';
import type { StepBatch } from '../../src/targets/model-runner.ts';
import { type LoadedCode, loadCode } from '../../src/targets/x64/loader.ts';
import { lowerToX64 } from '../../src/targets/x64/lower.ts';
import { COMMAND, COMMAND_BYTES } from '../../src/targets/x64/team-driver.ts';

export interface AttentionCase {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly window: number | null;
  readonly contextLen: number;
  /** Query tokens, the last ones of the context. */
  readonly queryLen: number;
}

export interface AttentionRun extends Disposable {
  readonly numLayers: number;
  /** Keys and values that a token of all layers sees. */
  readonly kvBytes: number;
  /** Multiplications and additions of all layers, of visible pairs only. */
  readonly flops: number;
  /** The work is done in parts so short that some are not interrupted: of whole layers, or of some tiles of queries. */
  readonly numParts: number;
  /** Milliseconds. */
  attend(part: number): number;
  /** Milliseconds in which `kvBytes` would be read, from a piece of that memory which no part nearby touches. */
  read(part: number): number;
}

/** Beyond every cache of a machine like this one; prompts, which are bound by arithmetic, take one layer. */
const DECODE_CACHE_BYTES = 160 << 20;
const READ_CHUNK_BYTES = 64 << 10;
/** Work of one timed part: bytes read, or multiplications and additions. */
const PART_BYTES = 6 << 20;
const PART_FLOPS = 1e8;
const READ_STREAMS = 4;

/** ORs everything of a chunk together, four streams side by side, which is the fastest way on Zen 4 and not far behind elsewhere. */
function readKernel(machine: VectorMachine): KernelProgram {
  const k = new KernelBuilder('read', machine);
  const data = k.add(k.arg('data'), k.mul(k.chunk, READ_CHUNK_BYTES));
  const vectorBytes = 4 * k.lanes;
  const sums = Array.from({ length: READ_STREAMS }, () => k.zero());
  k.loop(READ_CHUNK_BYTES / READ_STREAMS / 256, () => {
    sums.forEach((sum, stream) => {
      for (let offset = 0; offset < 256; offset += vectorBytes) {
        const at = k.at(data, (stream * READ_CHUNK_BYTES) / READ_STREAMS + offset);
        k.binary('bits.or', sum, k.load(at), sum);
      }
    });
    k.addTo(data, 256);
  });
  const result = k.pointer(k.at(k.scratch, k.reserveScratch(256)));
  for (const sum of sums) k.store(k.at(result), sum);
  return k.finish();
}

/** Halves in (-1, 1). */
function fillWithHalves(region: NativeRegion): void {
  const values = Float16Array.from({ length: 1 << 20 }, () => 2 * Math.random() - 1);
  const bytes = new Uint8Array(values.buffer);
  for (let at = 0; at < region.byteLength; at += bytes.length) {
    const length = Math.min(bytes.length, region.byteLength - at);
    region.bytes(at, length).set(bytes.subarray(0, length));
  }
}

interface Command {
  readonly program: KernelProgram;
  readonly params: Readonly<Record<string, bigint | number>>;
  readonly numChunks: number;
}

/** Command lists that a team can walk. */
class CommandLists implements Disposable {
  readonly #team: ThreadTeam;
  readonly #regions: NativeRegion[] = [];
  readonly #lists: { address: bigint; count: number }[] = [];
  readonly #code: LoadedCode;

  constructor(numThreads: number, lists: readonly (readonly Command[])[]) {
    const programs = [...new Set(lists.flat().map((command) => command.program))];
    const scratchBytes = Math.max(...programs.map((program) => program.scratchBytes));
    this.#team = new ThreadTeam(numThreads, scratchBytes);
    this.#code = loadCode(
      programs.map((program, i) => ({ name: `k${i}`, code: lowerToX64(program) })),
    );
    for (const commands of lists) {
      const memory = allocate(COMMAND_BYTES * commands.length);
      this.#regions.push(memory);
      commands.forEach(({ program, params, numChunks }, i) => {
        const table = allocate(8 * Math.max(1, program.params.length));
        this.#regions.push(table);
        u64(table.address, program.params.length).set(
          program.params.map((name) => BigInt(params[name]!)),
        );
        const command = memory.address + BigInt(COMMAND_BYTES * i);
        const quads = u64(command, COMMAND_BYTES / 8);
        quads[COMMAND.kernel >> 3] = this.#code.address(`k${programs.indexOf(program)}`);
        quads[COMMAND.table >> 3] = table.address;
        u32(command, COMMAND_BYTES / 4)[COMMAND.numChunks >> 2] = numChunks;
      });
      this.#lists.push({ address: memory.address, count: commands.length });
    }
  }

  get isComplete(): boolean {
    return this.#team.joinedThreads === this.#team.numThreads;
  }

  /** Milliseconds of the commands [begin, end) of a list. */
  time(list: number, begin: number, end: number): number {
    const { address } = this.#lists[list]!;
    this.#team.setCommands(address + BigInt(COMMAND_BYTES * begin), end - begin);
    const start = performance.now();
    this.#team.run(this.#team.numThreads);
    return performance.now() - start;
  }

  [Symbol.dispose](): void {
    this.#team[Symbol.dispose]();
    this.#code.dispose();
    for (const region of this.#regions) region.free();
  }
}

export async function attentionRun(
  machine: VectorMachine,
  numThreads: number,
  one: AttentionCase,
  tileTokens: number,
): Promise<AttentionRun> {
  const { numHeads, numKvHeads, headDim, window, contextLen, queryLen } = one;
  const shape = {
    ...{ numHeads, numKvHeads, headDim, window, scale: headDim ** -0.5 },
    ...({ kvType: 'f16', queryTokens: tileTokens, output: 'q8' } as const),
  };
  const numBlocks = Math.ceil(contextLen / kvBlockSize('f16'));
  const keyBytes = numBlocks * keyBlockBytes(shape);
  const valueBytes = numBlocks * valueBlockBytes(shape);
  const layerBytes = keyBytes + valueBytes;
  const numLayers = queryLen > 1 ? 1 : Math.ceil(DECODE_CACHE_BYTES / layerBytes);
  const keys = allocate(numLayers * keyBytes + PART_BYTES, { hugePages: true });
  const values = allocate(numLayers * valueBytes + PART_BYTES, { hugePages: true });
  fillWithHalves(keys);
  fillWithHalves(values);

  const maxParts = tileTokens * Math.ceil(contextLen / SPAN_TOKENS);
  const limits = { tileTokens, maxParts, numKvHeads, numThreads, openGroups: null };
  const most = maxTileEntries(limits, { maxTokens: queryLen, maxSeqs: 1 });
  const stride = 4 * numHeads * headDim;
  const parts = allocate(maxParts * numHeads * spanStateBytes(headDim) + 64);
  const q = allocate(queryLen * stride + 64);
  f32(q.address, (queryLen * stride) / 4).forEach((_, i, all) => {
    all[i] = 2 * Math.random() - 1;
  });
  const out = allocate(queryLen * stride + 64);
  const lists = allocate(TILE_ENTRY.bytes * (most.tiles + most.merges) + 64);
  const fields = TILE_ENTRY.bytes / 4;
  const mergesAt = lists.address + BigInt(TILE_ENTRY.bytes * most.tiles);
  const tiles = new AttentionTiles(limits, {
    tiles: i32(lists.address, fields * most.tiles),
    merges: i32(mergesAt, fields * most.merges + 1),
  });
  // contextLen, queryStarts, and behind them the block table: neighbours exchanged, so that its order matters.
  const small = allocate(4 * (numBlocks + 9) + 64);
  const words = i32(small.address, numBlocks + 9);
  words.set([contextLen, 0, queryLen]);
  for (let i = 0; i < numBlocks; i++) words[8 + i] = Math.min(i ^ 1, numBlocks - 1);
  const batch = {
    numSeqs: 1,
    contextLens: words.subarray(0, 1),
    queryStarts: words.subarray(1, 3),
  };
  tiles.make(batch as unknown as StepBatch);

  const attend = pagedAttentionKernel(machine, shape);
  const merge = mergeAttentionKernel(machine, shape);
  const reader = readKernel(machine);
  const { numTiles, numMerges } = tiles;
  const pairs = visiblePairs(one);
  const flops = 4 * pairs * numHeads * headDim * numLayers;
  /** Tiles of a command, commands of a part: a prompt's tiles are cut up, of decoding some layers are taken together. */
  const tilesPerCommand =
    queryLen === 1 ? numTiles : Math.ceil((numTiles * PART_FLOPS) / Math.max(PART_FLOPS, flops));
  const attention: Command[] = [];
  for (let layer = 0; layer < numLayers; layer++) {
    const params = {
      q: q.address,
      qStride: stride,
      out: out.address,
      outStride: stride,
      keyCache: keys.address + BigInt(layer * keyBytes),
      valueCache: values.address + BigInt(layer * valueBytes),
      blockTables: small.address + 32n,
      maxBlocksPerSeq: numBlocks,
      contextLens: small.address,
      queryStarts: small.address + 4n,
      merges: mergesAt,
      parts: parts.address,
    };
    for (let tile = 0; tile < numTiles; tile += tilesPerCommand) {
      attention.push({
        program: attend,
        params: { ...params, tiles: lists.address + BigInt(TILE_ENTRY.bytes * tile) },
        numChunks: Math.min(tilesPerCommand, numTiles - tile) * numKvHeads,
      });
    }
    if (numMerges > 0) {
      attention.push({ program: merge, params, numChunks: numMerges * numKvHeads });
    }
  }
  const layersPerPart = Math.max(1, Math.round(PART_BYTES / layerBytes));
  const perPart = queryLen === 1 ? (attention.length / numLayers) * layersPerPart : 1;
  const numReads = Math.ceil((numLayers * keyBytes) / PART_BYTES);
  const reads = Array.from({ length: numReads }, (_, i) => ({
    program: reader,
    params: { data: keys.address + BigInt(i * PART_BYTES) },
    numChunks: PART_BYTES / READ_CHUNK_BYTES,
  }));
  const commands = new CommandLists(numThreads, [attention, reads]);
  while (!commands.isComplete) await new Promise((resolve) => setTimeout(resolve, 1));

  return {
    numLayers,
    kvBytes: numLayers * layerBytes,
    flops,
    numParts: Math.ceil(attention.length / perPart),
    attend: (part) =>
      commands.time(0, perPart * part, Math.min(perPart * (part + 1), attention.length)),
    read: (part) => {
      const piece = (part + (numReads >> 1)) % numReads;
      return (commands.time(1, piece, piece + 1) * numLayers * layerBytes) / PART_BYTES;
    },
    [Symbol.dispose]: () => {
      commands[Symbol.dispose]();
      for (const region of [keys, values, parts, q, out, lists, small]) region.free();
    },
  };
}

/** Pairs of a query and a position that it sees. */
function visiblePairs({ window, contextLen, queryLen }: AttentionCase): number {
  let pairs = 0;
  for (let i = contextLen - queryLen; i < contextLen; i++)
    pairs += Math.min(i + 1, window ?? i + 1);
  return pairs;
}
