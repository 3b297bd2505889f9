/**
 * Carries out a plan on this machine's cores: binds kernels, buffers, weights and the KV cache to addresses once, then runs a step as one call into native
 * code. Between steps only what changed is written: row counts and chunk counts. Nothing is allocated per step.
 */
import type { EmittedKernel } from '../compiler/emit.ts';
import type {
  ChunkRule,
  Command,
  CommandVariant,
  ParamSource,
  Plan,
  RowCount,
} from '../compiler/plan.ts';
import { InternalError } from '../platform/errors.ts';
import { allocate, f32, type NativeRegion, u32, u64 } from '../platform/native-memory.ts';
import type { ModelRunner, RunnerLimits, StepBatch, StepTicket } from '../targets/model-runner.ts';
import { checkedRow, checkKvBlock, StepError } from '../targets/step-batch.ts';
import { type LoadedCode, loadCode } from '../targets/x64/loader.ts';
import { COMMAND, COMMAND_BYTES, PROFILE_STAMPS } from '../targets/x64/team-driver.ts';
import type { MappedImage } from './plan-cache.ts';
import { RopeTables } from './rope-tables.ts';
import { StepInputs } from './step-inputs.ts';
import { TeamSizePolicy } from './team-size.ts';
import { ThreadTeam } from './thread-team.ts';

/** From this size of a layer's keys on the KV cache may be in huge pages: attention over 4k tokens is 7 to 17 % faster then (Zen 4). */
const HUGE_PAGED_LAYER_BYTES = 8 << 20;
/**
 * It is from the first context of this length on. Before, a page per layer for a few tokens would be 120 MB for SmolLM2, which have to be cleared
 * before the first token: some 20 ms, and 100 and more in a virtual machine whose memory is fresh.
 */
const HUGE_PAGED_CONTEXT = 512;

const DONE: StepTicket = { isDone: true, wait: () => Promise.resolve() };

export interface NativeRunnerOptions {
  readonly plan: Plan;
  /** Of the plan, in its order. */
  readonly kernels: readonly EmittedKernel[];
  readonly image: Pick<MappedImage, 'address'> & Disposable;
  readonly numBlocks: number;
}

/** A variant bound to memory. */
interface BoundVariant {
  readonly variant: CommandVariant;
  readonly kernelAddress: bigint;
  readonly tableAddress: bigint;
}

/** A field of an argument table that holds the number of rows. */
interface RowField {
  readonly rows: RowCount;
  /** Index into the tables seen as u32. */
  readonly index: number;
}

export interface CommandTime {
  readonly label: string;
  readonly op: string;
  readonly kernel: string;
  readonly weightBytes: number;
  readonly macs: number;
  /** Time-stamp ticks of the calling thread: own chunks, then waiting at the barrier. */
  readonly workTicks: number;
  readonly waitTicks: number;
}

export class NativeRunner implements ModelRunner {
  readonly limits: RunnerLimits;
  readonly batch: StepBatch;
  readonly sliceSize: number;
  readonly plan: Plan;
  readonly kernels: readonly EmittedKernel[];
  readonly #image: Disposable;
  readonly #inputs: StepInputs;
  readonly #ropes: RopeTables;
  readonly #arena: NativeRegion;
  readonly #keyCache: NativeRegion;
  readonly #valueCache: NativeRegion;
  /** Open groups that sequences keep, layer by layer. */
  readonly #ownGroups: NativeRegion;
  readonly #tables: NativeRegion;
  readonly #commandMemory: NativeRegion;
  readonly #profile: NativeRegion;
  readonly #code: LoadedCode;
  readonly #team: ThreadTeam;
  readonly #teamSize: TeamSizePolicy;
  /** The KV cache goes into huge pages when a context is long. */
  #awaitsLongContext: boolean;
  readonly #bound: readonly (readonly BoundVariant[])[];
  readonly #chosen: BoundVariant[] = [];
  readonly #rowFields: readonly RowField[];
  readonly #tableWords: Uint32Array;
  readonly #commandQuads: BigUint64Array;
  readonly #commandWords: Uint32Array;
  readonly #tileCommands: readonly number[];
  readonly #hidden: RowViews;
  readonly #logits: RowViews;
  readonly #sliceMax: RowViews;
  readonly #sliceExpSum: RowViews;
  #boundTokens = -1;
  #boundLogitRows = -1;
  #boundHiddenRows = -1;
  #boundTiles = -1;
  #isDisposed = false;
  #boundMerges = -1;
  #boundSeals = -1;

  constructor(options: NativeRunnerOptions) {
    const { plan, kernels, image, numBlocks } = options;
    this.plan = plan;
    this.sliceSize = plan.sliceSize;
    this.#image = image;
    const { maxTokens, maxSeqs, maxLogitRows, maxModelLen, numThreads } = plan.limits;
    this.limits = {
      maxTokens,
      maxSeqs,
      maxLogitRows,
      maxModelLen,
      blockSize: plan.kvCache.blockSize,
      numBlocks,
      vocabSize: plan.vocabSize,
      hiddenSize: plan.hiddenSize,
      hasOpenBlocks: plan.kvCache.numOwnGroups > 0,
    };
    this.kernels = kernels;
    const scratchBytes = this.kernels.reduce((most, k) => Math.max(most, k.scratchBytes), 0);
    // First, so that workers start while the rest is set up.
    this.#team = new ThreadTeam(numThreads, scratchBytes);
    this.#teamSize = new TeamSizePolicy(numThreads);
    this.#code = loadCode(this.kernels.map(({ name, code }) => ({ name, code })));
    const { tileTokens, maxParts, kvCache } = plan;
    const { numKvHeads } = kvCache;
    this.#inputs = new StepInputs(this.limits, { tileTokens, maxParts, numKvHeads, numThreads });
    this.batch = this.#inputs.batch;
    this.#ropes = new RopeTables(plan.ropes, maxModelLen);
    this.#arena = allocate(Math.max(64, plan.arenaBytes), { hugePages: true });
    const { numLayers, keyBlockBytes, valueBlockBytes } = plan.kvCache;
    this.#awaitsLongContext = numBlocks * keyBlockBytes >= HUGE_PAGED_LAYER_BYTES;
    const hugePages = 'later';
    this.#keyCache = allocate(numLayers * numBlocks * keyBlockBytes + 64, { hugePages });
    this.#valueCache = allocate(numLayers * numBlocks * valueBlockBytes + 64, { hugePages });

    const { numOwnGroups, openGroupBytes } = plan.kvCache;
    this.#ownGroups = allocate(numLayers * numOwnGroups * openGroupBytes + 64);

    const allVariants = plan.commands.flatMap((command) => command.variants);
    const fieldsOf = (v: CommandVariant): number => this.kernels[v.kernel]!.params.length;
    const numFields = allVariants.reduce((sum, v) => sum + fieldsOf(v), 0);
    this.#tables = allocate(8 * Math.max(1, numFields));
    this.#tableWords = u32(this.#tables.address, 2 * Math.max(1, numFields));
    const rowFields: RowField[] = [];
    let nextField = 0;
    const quads = u64(this.#tables.address, Math.max(1, numFields));
    this.#bound = plan.commands.map((command) =>
      command.variants.map((variant) => {
        const kernel = this.kernels[variant.kernel]!;
        const tableAddress = this.#tables.address + BigInt(8 * nextField);
        for (const name of kernel.params) {
          const source = variant.params[name]!;
          if (source.kind === 'rows') rowFields.push({ rows: source.rows, index: 2 * nextField });
          else quads[nextField] = this.#resolve(source, image.address, numBlocks);
          nextField++;
        }
        return { variant, kernelAddress: this.#code.address(kernel.name), tableAddress };
      }),
    );
    this.#rowFields = rowFields;
    this.#commandMemory = allocate(COMMAND_BYTES * plan.commands.length);
    this.#commandQuads = u64(
      this.#commandMemory.address,
      (COMMAND_BYTES / 8) * plan.commands.length,
    );
    this.#commandWords = u32(
      this.#commandMemory.address,
      (COMMAND_BYTES / 4) * plan.commands.length,
    );
    this.#tileCommands = plan.commands.flatMap((command, i) =>
      command.variants.some((v) => ['tiles', 'merges', 'seals'].includes(v.chunks.kind)) ? [i] : [],
    );
    this.#team.setCommands(this.#commandMemory.address, plan.commands.length);
    this.#profile = allocate(8 * PROFILE_STAMPS * plan.commands.length);
    const numSlices = Math.ceil(plan.vocabSize / plan.sliceSize);
    this.#hidden = this.#rowsOf(plan.hidden.buffer, plan.hiddenSize);
    this.#logits = this.#rowsOf(plan.logits.buffer, plan.vocabSize);
    this.#sliceMax = this.#rowsOf(plan.sliceMax.buffer, numSlices);
    this.#sliceExpSum = this.#rowsOf(plan.sliceExpSum.buffer, numSlices);
  }

  #resolve(
    source: Exclude<ParamSource, { kind: 'rows' }>,
    image: bigint,
    numBlocks: number,
  ): bigint {
    switch (source.kind) {
      case 'buffer':
        return (
          this.#arena.address +
          BigInt(this.plan.buffers[source.buffer]!.offsetBytes + source.offsetBytes)
        );
      case 'weight':
        return image + BigInt(this.plan.weights[source.weight]!.offsetBytes);
      case 'input':
        return this.#inputs.address(source.input);
      case 'cache': {
        const { keyBlockBytes, valueBlockBytes } = this.plan.kvCache;
        return source.store === 'key'
          ? this.#keyCache.address + BigInt(source.layer * numBlocks * keyBlockBytes)
          : this.#valueCache.address + BigInt(source.layer * numBlocks * valueBlockBytes);
      }
      case 'ownGroups': {
        const { numOwnGroups, openGroupBytes } = this.plan.kvCache;
        return this.#ownGroups.address + BigInt(source.layer * numOwnGroups * openGroupBytes);
      }
      case 'cosSin':
        return this.#ropes.address(source.table);
      case 'value':
        return BigInt(source.value);
      default:
        source satisfies never;
        throw new InternalError('unknown param');
    }
  }

  #rowsOf(buffer: number, width: number): RowViews {
    const { offsetBytes, sizeBytes, strideBytes } = this.plan.buffers[buffer]!;
    const values = f32(this.#arena.address + BigInt(offsetBytes), Math.floor(sizeBytes / 4));
    return new RowViews(values, strideBytes / 4, width);
  }

  submit(): StepTicket {
    this.#prepare();
    this.#run();
    return DONE;
  }

  /**
   * Runs only the commands [from, to) of the batch; buffers hold what earlier commands or `buffer` put there. For tools that walk through a model in parts.
   */
  runCommands(from: number, to: number): void {
    this.#prepare();
    if (!(from >= 0 && from <= to && to <= this.plan.commands.length)) {
      throw new InternalError(`commands ${from} to ${to} of ${this.plan.commands.length}`);
    }
    if (from === to) return;
    const { address } = this.#commandMemory;
    this.#team.setCommands(address + BigInt(COMMAND_BYTES * from), to - from);
    this.#run();
    this.#team.setCommands(address, this.plan.commands.length);
  }

  /** Memory of a buffer of the plan, f32 [rows, strideBytes / 4]; the same memory serves other buffers before and after its commands. */
  buffer(index: number): Float32Array {
    this.#checkAlive();
    const { offsetBytes, sizeBytes } = this.plan.buffers[index]!;
    return f32(this.#arena.address + BigInt(offsetBytes), Math.floor(sizeBytes / 4));
  }

  /** Runs the batch and returns how long each command took on the calling thread. */
  profile(): CommandTime[] {
    this.#prepare();
    this.#team.setProfile(this.#profile.address);
    this.#run();
    this.#team.setProfile(0n);
    const stamps = u64(this.#profile.address, PROFILE_STAMPS * this.plan.commands.length);
    return this.plan.commands.map((command, i) => {
      const at = PROFILE_STAMPS * i;
      return {
        label: command.label,
        op: command.op,
        kernel: this.kernels[this.#chosen[i]!.variant.kernel]!.name,
        weightBytes: command.weightBytes,
        macs: command.macsPerRow * this.#numRows(command.rows),
        workTicks: Number(stamps[at + 1]! - stamps[at]!),
        waitTicks: Number(stamps[at + 2]! - stamps[at + 1]!),
      };
    });
  }

  #run(): void {
    const { numTokens } = this.batch;
    const sleepsBefore = this.#team.numSleeps;
    const threads = this.#teamSize.choose(numTokens, performance.now());
    this.#team.run(threads);
    const sleeps = this.#team.numSleeps - sleepsBefore;
    this.#teamSize.observe(numTokens, threads, sleeps, performance.now());
  }

  #numRows(rows: RowCount): number {
    const { numTokens, numLogitRows, numHiddenRows } = this.batch;
    if (rows === 'T') return numTokens;
    return rows === 'L' ? numLogitRows : numLogitRows + numHiddenRows;
  }

  /** Checks the batch, before anything is changed, and brings tables and chunk counts in line with it. */
  #prepare(): void {
    this.#checkAlive();
    this.#inputs.prepare();
    const { numTokens, numLogitRows, numHiddenRows, numSeqs, contextLens } = this.batch;
    let longest = 0;
    for (let s = 0; s < numSeqs; s++) longest = Math.max(longest, contextLens[s]!);
    this.#ropes.ensure(longest);
    if (this.#awaitsLongContext && longest >= HUGE_PAGED_CONTEXT) {
      this.#awaitsLongContext = false;
      this.#keyCache.advise('hugePages');
      this.#valueCache.advise('hugePages');
    }
    const { numTiles, numMerges } = this.#inputs.tiles;
    const numSeals = this.#inputs.openGroups?.numSeals ?? 0;
    if (
      numTokens !== this.#boundTokens ||
      numLogitRows !== this.#boundLogitRows ||
      numHiddenRows !== this.#boundHiddenRows
    ) {
      for (const { rows, index } of this.#rowFields) this.#tableWords[index] = this.#numRows(rows);
      for (let i = 0; i < this.#bound.length; i++) this.#bindCommand(i);
      this.#boundTokens = numTokens;
      this.#boundLogitRows = numLogitRows;
      this.#boundHiddenRows = numHiddenRows;
    } else if (
      numTiles !== this.#boundTiles ||
      numMerges !== this.#boundMerges ||
      numSeals !== this.#boundSeals
    ) {
      for (const i of this.#tileCommands) this.#setChunks(i, this.#chosen[i]!.variant.chunks);
    }
    this.#boundTiles = numTiles;
    this.#boundMerges = numMerges;
    this.#boundSeals = numSeals;
  }

  #bindCommand(i: number): void {
    const command: Command = this.plan.commands[i]!;
    const rows = this.#numRows(command.rows);
    const variants = this.#bound[i]!;
    let chosen = variants[0]!;
    for (const bound of variants) {
      if (rows >= bound.variant.minRows && rows <= bound.variant.maxRows) chosen = bound;
    }
    if (this.#chosen[i] !== chosen) {
      this.#chosen[i] = chosen;
      const quad = (COMMAND_BYTES / 8) * i;
      this.#commandQuads[quad + (COMMAND.kernel >> 3)] = chosen.kernelAddress;
      this.#commandQuads[quad + (COMMAND.table >> 3)] = chosen.tableAddress;
    }
    this.#setChunks(i, chosen.variant.chunks);
  }

  #setChunks(i: number, rule: ChunkRule): void {
    this.#commandWords[(COMMAND_BYTES / 4) * i + (COMMAND.numChunks >> 2)] = this.#chunks(rule);
  }

  #chunks(rule: ChunkRule): number {
    switch (rule.kind) {
      case 'fixed':
        return this.#numRows(rule.rows) > 0 ? rule.count : 0;
      case 'rows':
        return Math.ceil(this.#numRows(rule.rows) / rule.rowsPerChunk) * rule.perGroup;
      case 'tiles':
        return this.#inputs.tiles.numTiles * rule.perTile;
      case 'merges':
        return this.#inputs.tiles.numMerges * rule.perMerge;
      case 'seals':
        return (this.#inputs.openGroups?.numSeals ?? 0) * rule.perSeal;
      default:
        rule satisfies never;
        return 0;
    }
  }

  logits(row: number): Float32Array {
    return this.#logits.row(this.#checkedRow(row));
  }

  hidden(row: number): Float32Array {
    this.#checkAlive();
    return this.#hidden.row(checkedRow(this.batch, row, true));
  }

  sliceMax(row: number): Float32Array {
    return this.#sliceMax.row(this.#checkedRow(row));
  }

  sliceExpSum(row: number): Float32Array {
    return this.#sliceExpSum.row(this.#checkedRow(row));
  }

  #checkedRow(row: number): number {
    this.#checkAlive();
    return checkedRow(this.batch, row, false);
  }

  /** Its memory is gone afterwards: a step would end the process. */
  #checkAlive(): void {
    if (this.#isDisposed) throw new InternalError('the runner was disposed of');
  }

  /** Threads that steps run on now; grows to the planned number while workers start. */
  get numThreads(): number {
    return this.#team.joinedThreads;
  }

  copyBlocks(pairs: Int32Array, numPairs: number): void {
    const { numLayers, keyBlockBytes, valueBlockBytes } = this.plan.kvCache;
    const { numBlocks } = this.limits;
    this.#checkAlive();
    for (let i = 0; i < 2 * numPairs; i++) {
      if (!(pairs[i]! >= 0 && pairs[i]! < numBlocks)) {
        throw new StepError(`copyBlocks: block ${pairs[i]}; expected 0 to ${numBlocks - 1}`);
      }
    }
    for (let layer = 0; layer < numLayers; layer++) {
      for (let p = 0; p < numPairs; p++) {
        const from = pairs[2 * p]!;
        const to = pairs[2 * p + 1]!;
        copyBlock(this.#keyCache, keyBlockBytes, layer * numBlocks, from, to);
        copyBlock(this.#valueCache, valueBlockBytes, layer * numBlocks, from, to);
      }
    }
  }

  get kvBlockBytes(): number {
    const { numLayers, keyBlockBytes, valueBlockBytes } = this.plan.kvCache;
    return numLayers * (keyBlockBytes + valueBlockBytes);
  }

  readBlock(blockId: number, into: Uint8Array): void {
    this.#eachPartOfBlock(blockId, into, (part, cached) => part.set(cached));
  }

  writeBlock(blockId: number, from: Uint8Array): void {
    this.#eachPartOfBlock(blockId, from, (part, cached) => cached.set(part));
  }

  /** Walks through a block outside the cache: keys of the first layer, its values, keys of the next one, ... */
  #eachPartOfBlock(
    blockId: number,
    outside: Uint8Array,
    visit: (part: Uint8Array, cached: Uint8Array) => void,
  ): void {
    const { numLayers, keyBlockBytes, valueBlockBytes } = this.plan.kvCache;
    const { numBlocks } = this.limits;
    this.#checkAlive();
    checkKvBlock(blockId, outside, this);
    let at = 0;
    const next = (cache: NativeRegion, layer: number, bytes: number): void => {
      const offset = (layer * numBlocks + blockId) * bytes;
      visit(outside.subarray(at, at + bytes), cache.bytes(offset, bytes));
      at += bytes;
    };
    for (let layer = 0; layer < numLayers; layer++) {
      next(this.#keyCache, layer, keyBlockBytes);
      next(this.#valueCache, layer, valueBlockBytes);
    }
  }

  [Symbol.dispose](): void {
    if (this.#isDisposed) return;
    this.#isDisposed = true;
    this.#team[Symbol.dispose]();
    this.#code.dispose();
    this.#inputs[Symbol.dispose]();
    this.#ropes[Symbol.dispose]();
    for (const region of [
      this.#arena,
      this.#keyCache,
      this.#valueCache,
      this.#ownGroups,
      this.#tables,
      this.#commandMemory,
      this.#profile,
    ]) {
      region.free();
    }
    this.#image[Symbol.dispose]();
  }
}

/** Rows of a buffer as views, each made when it is first asked for and then kept. */
class RowViews {
  readonly #values: Float32Array;
  readonly #stride: number;
  readonly #width: number;
  readonly #views: Float32Array[] = [];

  constructor(values: Float32Array, stride: number, width: number) {
    this.#values = values;
    this.#stride = stride;
    this.#width = width;
  }

  row(row: number): Float32Array {
    const known = this.#views[row];
    if (known !== undefined) return known;
    const start = row * this.#stride;
    const view = this.#values.subarray(start, start + this.#width);
    this.#views[row] = view;
    return view;
  }
}

function copyBlock(
  cache: NativeRegion,
  blockBytes: number,
  first: number,
  from: number,
  to: number,
): void {
  cache
    .bytes((first + to) * blockBytes, blockBytes)
    .set(cache.bytes((first + from) * blockBytes, blockBytes));
}
