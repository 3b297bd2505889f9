/** How long sequences may become and how many KV blocks there are, from what the model, the user and the machine say. */
import { HastenError } from '../platform/errors.ts';

/** A setting that cannot be met, with the numbers. */
export class CapacityError extends HastenError {
  constructor(message: string) {
    super('does_not_fit', message);
  }
}

export interface KvBudgetRequest {
  /** The model's own longest sequence. */
  readonly maxPositionEmbeddings: number;
  readonly bytesPerToken: number;
  /** Tokens per KV block. */
  readonly blockSize: number;
  /** As the user set them. */
  readonly maxModelLen?: number | undefined;
  readonly kvCacheMemoryBytes?: number | undefined;
  readonly availableBytes: number;
}

export interface KvBudget {
  readonly maxModelLen: number;
  readonly numBlocks: number;
}

/** Of the memory that is free now, for the KV cache, where the user does not say. */
const DEFAULT_SHARE = 0.25;
/** Sequences of full length that the default makes room for. */
const DEFAULT_SEQUENCES = 4;

/**
 * @throws {CapacityError} if the user asked for more than the model or the memory allows
 */
export function kvBudget(request: KvBudgetRequest): KvBudget {
  const { maxPositionEmbeddings, bytesPerToken, blockSize, maxModelLen, kvCacheMemoryBytes } =
    request;
  if (maxModelLen !== undefined && maxModelLen > maxPositionEmbeddings) {
    throw new CapacityError(
      `--max-model-len ${maxModelLen}: the model was made for sequences of up to ${maxPositionEmbeddings} tokens`,
    );
  }
  const blockBytes = blockSize * bytesPerToken;
  const wantedLen = maxModelLen ?? maxPositionEmbeddings;
  const wantedBlocks = Math.ceil(wantedLen / blockSize);
  const memory =
    kvCacheMemoryBytes ??
    Math.min(wantedBlocks * blockBytes * DEFAULT_SEQUENCES, request.availableBytes * DEFAULT_SHARE);
  const numBlocks = Math.floor(memory / blockBytes);
  if (numBlocks < 1) {
    throw new CapacityError(
      `the KV cache has ${Math.floor(memory)} bytes, one block of ${blockSize} tokens takes ${blockBytes}: raise --kv-cache-memory`,
    );
  }
  if (numBlocks >= wantedBlocks) return { maxModelLen: wantedLen, numBlocks };
  if (maxModelLen !== undefined) {
    throw new CapacityError(
      `--max-model-len ${maxModelLen} needs ${wantedBlocks * blockBytes} bytes of KV cache, there are ${Math.floor(memory)}: ` +
        `raise --kv-cache-memory, or lower --max-model-len to ${numBlocks * blockSize}`,
    );
  }
  return { maxModelLen: numBlocks * blockSize, numBlocks };
}
