/**
 * Layers that are done, kept in a folder so that a killed run can go on: one safetensors file per layer, and the fingerprint of what it was made from.
 * Files appear under their name only when they are complete.
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomic } from '../platform/atomic-file.ts';
import { viewBytes } from '../platform/view-bytes.ts';
import type { DType } from '../tensor/dtype.ts';
import { writeSafetensors } from '../weights/safetensors-writer.ts';
import { openWeights } from '../weights/weight-source.ts';
import { CompressError } from './errors.ts';
import type { QuantizedMatrix } from './group-quantizer.ts';

export interface SiteState {
  readonly label: string;
  readonly matrix: QuantizedMatrix;
  readonly relativeError: number | null;
  readonly note: string | null;
}

export interface LayerState {
  readonly sites: readonly SiteState[];
  /** Other tensors of the layer that changed, by name. */
  readonly vectors: ReadonlyMap<string, Float32Array>;
}

/** What of a matrix is not in its tensors. */
interface SiteHeader {
  readonly label: string;
  readonly rows: number;
  readonly columns: number;
  readonly bits: number;
  readonly groupSize: number;
  readonly isSymmetric: boolean;
  readonly relativeError: number | null;
}

/** Digest of everything that decides the result: model, text, settings. */
export function fingerprintOf(parts: unknown): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex');
}

export class CompressionState {
  readonly folder: string;
  readonly #fingerprint: string;

  /**
   * The folder is made when the first layer is kept: a run that is refused leaves none.
   *
   * @throws {CompressError} if the folder holds the state of another model, text or settings, or something else
   */
  constructor(folder: string, fingerprint: string) {
    this.folder = folder;
    this.#fingerprint = fingerprint;
    const file = join(folder, 'fingerprint');
    if (!existsSync(folder) || (!existsSync(file) && readdirSync(folder).length === 0)) return;
    if (!existsSync(file) || readFileSync(file, 'utf8') !== fingerprint) {
      throw new CompressError(
        `${folder}: holds the state of a run with another model, calibration text or settings; remove the folder, or name another one`,
      );
    }
  }

  /** The model is complete: nothing needs to be gone on with. */
  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }

  #file(layer: number, extension: string): string {
    return join(this.folder, `layer-${layer}.${extension}`);
  }

  async save(layer: number, { sites, vectors }: LayerState): Promise<void> {
    const headers: SiteHeader[] = [];
    const tensors = sites.flatMap(({ label, matrix, relativeError }) => {
      const { rows, columns, bits, groupSize, isSymmetric, codes, scales, zeros } = matrix;
      headers.push({ label, rows, columns, bits, groupSize, isSymmetric, relativeError });
      return [
        { name: `${label}.codes`, dtype: 'u8' as DType, shape: [rows, columns], data: codes },
        {
          name: `${label}.scales`,
          dtype: 'f32' as DType,
          shape: [scales.length],
          data: viewBytes(scales),
        },
        { name: `${label}.zeros`, dtype: 'u8' as DType, shape: [zeros.length], data: zeros },
      ];
    });
    for (const [name, values] of vectors) {
      tensors.push({
        ...{ name: `vector:${name}`, dtype: 'f32' as DType },
        ...{ shape: [values.length], data: viewBytes(values) },
      });
    }
    await writeFileAtomic(join(this.folder, 'fingerprint'), this.#fingerprint);
    await writeSafetensors(this.#file(layer, 'safetensors'), { tensors });
    // Last: a layer counts as done when its list is there.
    await writeFileAtomic(this.#file(layer, 'json'), JSON.stringify(headers));
  }

  /** undefined: this layer is still to do. */
  async load(layer: number): Promise<LayerState | undefined> {
    const list = this.#file(layer, 'json');
    if (!existsSync(list)) return undefined;
    const headers = JSON.parse(readFileSync(list, 'utf8')) as SiteHeader[];
    using source = openWeights(this.#file(layer, 'safetensors'));
    const sites = headers.map(
      ({ label, relativeError, ...rest }): SiteState => ({
        ...{ label, relativeError, note: null },
        matrix: {
          ...rest,
          codes: source.readRows(`${label}.codes`),
          scales: source.readF32(`${label}.scales`),
          zeros: source.readRows(`${label}.zeros`),
        },
      }),
    );
    const vectors = new Map<string, Float32Array>();
    for (const name of source.tensors.keys()) {
      if (name.startsWith('vector:')) vectors.set(name.slice(7), source.readF32(name));
    }
    return { sites, vectors };
  }
}
