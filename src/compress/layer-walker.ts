/**
 * Walks a model through the calibration text layer by layer, in f32: every window stands at the same command of the plan, and all of them are moved on
 * together. What is alive at that command (the residual stream, mostly) is kept per window; weights are brought into memory when their layer is reached
 * and given back after it, so that a few layers' weights are there at a time. Linears on the way can be looked at, and their weights exchanged.
 */

import { emitKernels } from '../compiler/emit.ts';
import type { Command, Plan, PlannedWeight } from '../compiler/plan.ts';
import type { ModelConfig } from '../models/model-config.ts';
import { InternalError } from '../platform/errors.ts';
import { allocate, type NativeRegion } from '../platform/native-memory.ts';
import { planRunner } from '../runtime/compile-model.ts';
import { resolveTarget } from '../runtime/create-runner.ts';
import { NativeRunner } from '../runtime/native-runner.ts';
import { packWeights } from '../runtime/packed-weights.ts';
import { machineOf } from '../targets/x64/isa.ts';
import { dequantize, type QuantizedMatrix, rowsOf } from '../tensor/quantized-matrix.ts';
import { CompressError } from './errors.ts';
import type { F32Weights } from './f32-weights.ts';

const PAGE_BYTES = 4096;
/** Of a weight that is read: what stays in the cache. */
const PIECE_BYTES = 1 << 18;

/** Rows of a stored tensor. */
export interface TensorRows {
  readonly tensor: string;
  readonly rowStart: number;
  readonly rowEnd: number;
}

/** A linear of the plan; several of the model that share their input are one. */
export interface LinearSite {
  /** Such as `layers.3.mlp.down_proj`. */
  readonly label: string;
  readonly command: number;
  readonly weight: number;
  readonly parts: readonly TensorRows[];
  readonly rows: number;
  readonly columns: number;
  /** Where its input stands. */
  readonly input: { readonly buffer: number; readonly offsetBytes: number };
}

export interface WalkedLayer {
  readonly index: number;
  /** Commands [start, end). */
  readonly start: number;
  readonly end: number;
  readonly sites: readonly LinearSite[];
}

/** A linear's inputs for one window: f32 [numTokens, stride], valid during the call. */
export type InputVisitor = (inputs: Float32Array, stride: number, numTokens: number) => void;

/** A linear's inputs for one window on the way. */
export interface SeenInputs {
  readonly command: number;
  /** f32 [numTokens, stride], valid until the walk goes on. */
  readonly inputs: Float32Array;
  readonly stride: number;
  readonly numTokens: number;
}

export interface WalkerOptions {
  readonly weights: F32Weights;
  readonly config: ModelConfig;
  /** Token ids of each window; each is a text of its own. */
  readonly windows: readonly (readonly number[])[];
  readonly threads: number | 'auto';
}

/** What is alive between two commands, of one window. */
type Snapshot = ReadonlyMap<number, Float32Array>;

export class LayerWalker implements Disposable {
  readonly plan: Plan;
  readonly layers: readonly WalkedLayer[];
  readonly #weights: F32Weights;
  readonly #windows: readonly (readonly number[])[];
  readonly #runner: NativeRunner;
  readonly #image: NativeRegion;
  readonly #loaded = new Set<number>();
  #position = 0;
  #snapshots: Snapshot[];
  /** Memory of snapshots that have been passed, by length: fresh memory costs more than what is copied into it. */
  readonly #spare = new Map<number, Float32Array[]>();

  private constructor(
    options: WalkerOptions,
    parts: { plan: Plan; runner: NativeRunner; image: NativeRegion },
  ) {
    this.#weights = options.weights;
    this.#windows = options.windows;
    this.plan = parts.plan;
    this.#runner = parts.runner;
    this.#image = parts.image;
    this.layers = layersOf(parts.plan);
    this.#snapshots = options.windows.map(() => new Map());
  }

  /** @throws {CompressError} where no native code can run */
  static create(options: WalkerOptions): LayerWalker {
    const target = resolveTarget('auto');
    if (target.kind !== 'x64') {
      throw new CompressError(
        `calibration needs native code, which cannot run here: ${target.reason}`,
      );
    }
    const longest = options.windows.reduce((most, ids) => Math.max(most, ids.length), 1);
    const runnerOptions = {
      ...{ source: options.weights, config: options.config, target: 'auto' as const },
      ...{ precision: 'f32' as const, threads: options.threads, maxModelLen: longest },
      // Calibration wants the last layer's inputs of all tokens, not only of those whose logits are asked for.
      disabledPasses: ['select-rows-early' as const],
      ...{ maxTokensPerStep: longest, maxSeqs: 1, maxLogitRows: 1, planCacheFolder: null },
    };
    const { plan, numBlocks } = planRunner(runnerOptions, target.isa);
    // Pages that are never written take no memory.
    const image = allocate(plan.weightBytes);
    const kernels = emitKernels(plan, machineOf(target.isa));
    const runner = new NativeRunner({
      ...{ plan, kernels, numBlocks },
      image: { address: image.address, [Symbol.dispose]: () => image.free() },
    });
    return new LayerWalker(options, { plan, runner, image });
  }

  /** Names of all tensors that the model runs on, each once. */
  get tensors(): ReadonlySet<string> {
    return new Set(this.plan.weights.flatMap(({ ref }) => ref.parts.map(({ tensor }) => tensor)));
  }

  /** The command that all windows stand before. */
  get position(): number {
    return this.#position;
  }

  /** Values of a linear's weight as they are now, f32 [rows, columns]. */
  readWeight({ parts, rows, columns }: LinearSite, into: Float32Array, stride: number): void {
    const rowsAtOnce = Math.max(1, Math.floor(PIECE_BYTES / (4 * columns)));
    const piece = new Float32Array(rowsAtOnce * columns);
    const bytes = new Uint8Array(piece.buffer);
    let row = 0;
    for (const { tensor, rowStart, rowEnd } of parts) {
      for (let start = rowStart; start < rowEnd; start += rowsAtOnce) {
        const end = Math.min(rowEnd, start + rowsAtOnce);
        this.#weights.readRows(tensor, start, end, bytes);
        for (let r = 0; r < end - start; r++, row++) {
          into.set(piece.subarray(r * columns, (r + 1) * columns), row * stride);
        }
      }
    }
    if (row !== rows) throw new InternalError(`${row} of ${rows} rows`);
  }

  /** Puts a rounded matrix in the place of a linear's weight: in the source, and so for what runs from now on. */
  writeWeight(site: LinearSite, matrix: QuantizedMatrix): void {
    let row = 0;
    for (const { tensor, rowStart, rowEnd } of site.parts) {
      const part = rowsOf(matrix, row, row + rowEnd - rowStart);
      row += part.rows;
      if (4 * part.codes.length === this.#weights.tensors.get(tensor)?.sizeBytes) {
        this.#weights.replaceByCodes(tensor, part);
        continue;
      }
      // Of other parts of the tensor there are only values yet.
      let whole = this.#weights.replaced.get(tensor);
      if (whole === undefined) {
        whole = this.#weights.readF32(tensor);
        this.#weights.replace(tensor, whole);
      }
      whole.set(dequantize(part), rowStart * site.columns);
    }
    this.reload(site.weight);
  }

  /** To be called after its tensor was replaced: what is in memory already is read again. */
  reload(weight: number): void {
    if (this.#loaded.delete(weight)) this.#load(weight);
  }

  #load(index: number): void {
    if (this.#loaded.has(index)) return;
    const weight: PlannedWeight = this.plan.weights[index]!;
    const bytes = this.#image.bytes();
    packWeights([weight], this.#weights, (offset, piece) => bytes.set(piece, offset));
    this.#loaded.add(index);
  }

  /** Gives the memory of weights before `command` back. */
  #unloadBefore(command: number): void {
    const later = new Set(this.plan.commands.slice(command).flatMap((c) => weightsOf(c)));
    for (const index of this.#loaded) {
      const { offsetBytes, sizeBytes, kind } = this.plan.weights[index]!;
      // Vectors share pages with others, and are small.
      if (later.has(index) || kind !== 'matrix') continue;
      // Its last page may hold the vector that comes next.
      const wholePages = sizeBytes - (sizeBytes % PAGE_BYTES);
      if (wholePages > 0) this.#image.advise('dontNeed', offsetBytes, wholePages);
      this.#loaded.delete(index);
    }
  }

  /**
   * Runs all windows up to `command`.
   *
   * @param visit called at linears on the way, `command` itself included, by their command
   * @param keep false to come back to where they stood
   */
  moveTo(
    command: number,
    visit: ReadonlyMap<number, InputVisitor> = new Map(),
    { keep = true, onWindow }: { keep?: boolean; onWindow?: (done: number) => void } = {},
  ): void {
    for (const seen of this.walkTo(command, [...visit.keys()], { keep, onWindow })) {
      visit.get(seen.command)!(seen.inputs, seen.stride, seen.numTokens);
    }
  }

  /**
   * The same, and lets Ctrl-C and what shows progress through between windows: one may take a second, and all of them a minute.
   * @throws the reason of `signal`; the walk has then ended where it was
   */
  async moveInTurns(
    command: number,
    visit: ReadonlyMap<number, InputVisitor>,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const last = Math.max(...visit.keys());
    for (const seen of this.walkTo(command, [...visit.keys()])) {
      visit.get(seen.command)!(seen.inputs, seen.stride, seen.numTokens);
      if (seen.command !== last) continue;
      await new Promise((resolve) => setImmediate(resolve));
      signal?.throwIfAborted();
    }
  }

  /**
   * The same as a sequence of what is seen on the way, so that two models can be walked in step. To be run to its end.
   *
   * @param stops commands of linears
   */
  *walkTo(
    command: number,
    stops: readonly number[],
    { keep = true, onWindow }: { keep?: boolean; onWindow?: (done: number) => void } = {},
  ): Generator<SeenInputs, void, void> {
    const from = this.#position;
    if (command < from) throw new InternalError(`from command ${from} back to ${command}`);
    const sites = new Map(
      this.layers.flatMap((layer) => layer.sites).map((site) => [site.command, site]),
    );
    const ahead = stops.filter((stop) => stop >= from && stop <= command).sort((a, b) => a - b);
    for (const c of this.plan.commands.slice(from, command)) {
      for (const index of weightsOf(c)) this.#load(index);
    }
    for (const [w, tokenIds] of this.#windows.entries()) {
      this.#fillBatch(tokenIds);
      this.#restore(this.#snapshots[w]!);
      const numTokens = tokenIds.length;
      let at = from;
      for (const stop of ahead) {
        this.#runner.runCommands(at, stop);
        at = stop;
        const { input } = sites.get(stop)!;
        const { strideBytes } = this.plan.buffers[input.buffer]!;
        const inputs = this.#runner.buffer(input.buffer).subarray(input.offsetBytes / 4);
        yield { command: stop, inputs, stride: strideBytes / 4, numTokens };
      }
      this.#runner.runCommands(at, command);
      if (keep) this.#snapshots[w] = this.#snapshot(command, numTokens, this.#snapshots[w]!);
      onWindow?.(w + 1);
    }
    if (!keep) return;
    this.#position = command;
    this.#unloadBefore(command);
  }

  #fillBatch(tokenIds: readonly number[]): void {
    const { batch, limits } = this.#runner;
    for (let i = 0; i < tokenIds.length; i++) {
      batch.tokenIds[i] = tokenIds[i]!;
      batch.positions[i] = i;
      batch.slotMapping[i] = i;
    }
    for (let block = 0; block * limits.blockSize < tokenIds.length; block++) {
      batch.blockTables[block] = block;
    }
    batch.numTokens = tokenIds.length;
    batch.numSeqs = 1;
    batch.queryStarts[0] = 0;
    batch.queryStarts[1] = tokenIds.length;
    batch.contextLens[0] = tokenIds.length;
    batch.numLogitRows = 1;
    batch.logitRows[0] = tokenIds.length - 1;
  }

  /** @param last the window's snapshot so far, whose memory is taken over */
  #snapshot(command: number, numTokens: number, last: Snapshot): Snapshot {
    for (const values of last.values()) {
      const spare = this.#spare.get(values.length);
      if (spare === undefined) this.#spare.set(values.length, [values]);
      else spare.push(values);
    }
    const alive = new Map<number, Float32Array>();
    for (const [index, buffer] of this.plan.buffers.entries()) {
      if (!(buffer.firstCommand < command && buffer.lastCommand >= command)) continue;
      const rows =
        buffer.rows === 'T' ? numTokens : typeof buffer.rows === 'number' ? buffer.rows : 1;
      const values = this.#runner.buffer(index).subarray(0, (rows * buffer.strideBytes) / 4);
      const kept = this.#spare.get(values.length)?.pop() ?? new Float32Array(values.length);
      kept.set(values);
      alive.set(index, kept);
    }
    return alive;
  }

  #restore(snapshot: Snapshot): void {
    for (const [index, values] of snapshot) this.#runner.buffer(index).set(values);
  }

  [Symbol.dispose](): void {
    this.#snapshots = [];
    this.#spare.clear();
    this.#runner[Symbol.dispose]();
  }
}

function weightsOf(command: Command): number[] {
  return command.variants.flatMap((variant) =>
    Object.values(variant.params).flatMap((param) =>
      param.kind === 'weight' ? [param.weight] : [],
    ),
  );
}

/** Layers by the labels of their linears, `layers.3.…`; one ends with its last linear, what follows that belongs to the next. */
function layersOf(plan: Plan): WalkedLayer[] {
  const layers: { index: number; start: number; end: number; sites: LinearSite[] }[] = [];
  for (const [i, command] of plan.commands.entries()) {
    const match = command.op === 'linear' ? /^layers\.(\d+)\./.exec(command.label) : null;
    if (match === null) continue;
    const index = Number(match[1]);
    let layer = layers.at(-1);
    if (layer?.index !== index) {
      layer = { index, start: layer?.end ?? 0, end: i, sites: [] };
      layers.push(layer);
    }
    layer.end = i + 1;
    layer.sites.push(siteOf(plan, i));
  }
  return layers;
}

function siteOf(plan: Plan, command: number): LinearSite {
  const { label, variants } = plan.commands[command]!;
  const { weight, x } = variants[0]!.params;
  if (weight?.kind !== 'weight' || x?.kind !== 'buffer') {
    throw new InternalError(`${label}: a linear without weight or input`);
  }
  const planned = plan.weights[weight.weight]!;
  if (planned.kind !== 'matrix') throw new InternalError(`${label}: its weight is no matrix`);
  const { rows, columns, ref } = planned;
  const input = { buffer: x.buffer, offsetBytes: x.offsetBytes };
  return { label, command, weight: weight.weight, parts: ref.parts, rows, columns, input };
}
