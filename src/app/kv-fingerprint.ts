/**
 * Names what keys and values were computed with: model, weights and arithmetic. Two engines whose names are equal can use each other's saved sessions.
 * Wherever the files lie, and when they were written, makes no difference.
 */
import { createHash } from 'node:crypto';
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import type { ModelConfig } from '../models/model-config.ts';
import type { WeightSource } from '../weights/contract.ts';

/** Places of a file that are read: enough to tell a model from one that was trained further, without reading all of it. */
const NUM_SAMPLES = 64;
const SAMPLE_BYTES = 4096;

export interface ComputedWith {
  readonly source: Pick<WeightSource, 'files' | 'tensors'>;
  readonly config: ModelConfig;
  /** Names of whatever else decides numbers and bytes of a block. */
  readonly layout: readonly string[];
}

/** The name, as hexadecimal digits; reads the files only when it is called. */
export function kvFingerprint({ source, config, layout }: ComputedWith): () => string {
  const { files } = source;
  const tensors = [...source.tensors].map(([name, { dtype, shape }]) => [name, dtype, shape]);
  const parts = JSON.stringify({ config, layout, tensors });
  return () => {
    const hash = createHash('sha256').update(parts);
    for (const file of files) hash.update(sampleOf(file));
    return hash.digest('hex');
  };
}

function sampleOf(file: string): Buffer {
  const descriptor = openSync(file, 'r');
  try {
    const { size } = fstatSync(descriptor);
    const sample = Buffer.alloc(8 + NUM_SAMPLES * SAMPLE_BYTES);
    sample.writeDoubleLE(size, 0);
    const step = Math.max(0, size - SAMPLE_BYTES) / (NUM_SAMPLES - 1);
    for (let i = 0; i < NUM_SAMPLES; i++) {
      const at = Math.floor(i * step);
      readSync(descriptor, sample, 8 + i * SAMPLE_BYTES, SAMPLE_BYTES, at);
    }
    return sample;
  } finally {
    closeSync(descriptor);
  }
}
