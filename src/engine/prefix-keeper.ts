/**
 * What is done with prefixes beside finding them: pinned for good, saved to a file, restored from one; and who shares them. Knows blocks and texts, not
 * requests or steps.
 */

import type { ModelRunner } from '../targets/model-runner.ts';
import { type BlockManager, BlockTable, PrefixMatch } from './block-manager.ts';
import { RequestError } from './errors.ts';
import {
  KvSessionError,
  type KvSessionFormat,
  readKvSession,
  writeKvSession,
} from './kv-session.ts';
import { type PrefixRoot, prefixRootOf } from './prefix-root.ts';
import { TokenList } from './token-list.ts';

export const PREFIX_CACHE_SCOPES = ['all', 'tenant'] as const;
export type PrefixCacheScope = (typeof PREFIX_CACHE_SCOPES)[number];

/** Who may share a text; left out: everybody who leaves it out, too. */
export interface PrefixShare {
  readonly tenant?: string;
  readonly cacheSalt?: string;
}

export interface PrefixText extends PrefixShare {
  readonly tokenIds: ArrayLike<number>;
}

export interface PrefixKeeperOptions {
  readonly runner: ModelRunner;
  readonly blocks: BlockManager;
  readonly scope: PrefixCacheScope;
  /** Gives the name of model, weights and KV format; `null`: sessions are off. */
  readonly fingerprint: (() => string) | null;
  /** Free blocks to be left for those who run. */
  readonly numReserved: () => number;
  /** Computes a text, so that its full blocks are in the prefix cache. */
  readonly compute: (text: PrefixText) => Promise<void>;
}

/** Share of the pool that pinned prefixes may hold. */
const MAX_PINNED_SHARE = 0.5;

export class PrefixKeeper {
  readonly #runner: ModelRunner;
  readonly #blocks: BlockManager;
  readonly #scope: PrefixCacheScope;
  readonly #fingerprint: (() => string) | null;
  readonly #numReserved: () => number;
  readonly #compute: (text: PrefixText) => Promise<void>;
  #numHolding = 0;
  #idle: PromiseWithResolvers<void> | null = null;

  constructor(options: PrefixKeeperOptions) {
    this.#runner = options.runner;
    this.#blocks = options.blocks;
    this.#scope = options.scope;
    this.#fingerprint = options.fingerprint;
    this.#numReserved = options.numReserved;
    this.#compute = options.compute;
  }

  /** Whether blocks are held for a while by what saves or restores: they come free by themselves. */
  get isHolding(): boolean {
    return this.#numHolding > 0;
  }

  /** Settles when nothing is being saved or restored: the runner's blocks are not touched any more. */
  idle(): Promise<void> {
    if (this.#numHolding === 0) return Promise.resolve();
    this.#idle ??= Promise.withResolvers();
    return this.#idle.promise;
  }

  #release(table: BlockTable): void {
    this.#blocks.releaseAll(table);
    if (--this.#numHolding > 0) return;
    this.#idle?.resolve();
    this.#idle = null;
  }

  /** Where the prefix chain of a text starts: texts of different roots share nothing. */
  rootOf({ tenant = '', cacheSalt = '' }: PrefixShare): PrefixRoot {
    if (this.#scope === 'all' || (tenant === '' && cacheSalt === ''))
      return prefixRootOf(cacheSalt);
    return prefixRootOf(JSON.stringify([tenant, cacheSalt]));
  }

  /**
   * Computes a text and keeps its full blocks in the prefix cache for good: until a request that would not fit otherwise needs the room.
   *
   * @returns how many of its tokens are pinned
   * @throws {RequestError | RequestTooLongError} if it is wrong, or pins would hold more than half of the pool
   */
  async pin(text: PrefixText): Promise<number> {
    const { limits } = this.#runner;
    const tokens = new TokenList(text.tokenIds);
    const maxBlocks = Math.floor(limits.numBlocks * MAX_PINNED_SHARE);
    const numBlocks = Math.floor(tokens.length / limits.blockSize);
    const tooMany = (): RequestError =>
      new RequestError(
        'tokenIds',
        `${tokens.length} tokens to pin take ${numBlocks} KV blocks; pins may hold ${maxBlocks} of ${limits.numBlocks}, and hold ${this.#blocks.numPinnedBlocks} already`,
      );
    if (numBlocks > maxBlocks) throw tooMany();
    await this.#compute(text);
    const numPinned = this.#blocks.pin(tokens, this.rootOf(text), maxBlocks);
    if (numPinned === 0 && numBlocks > 0) throw tooMany();
    return numPinned;
  }

  /**
   * Lets go of what the prefix cache has of a text, texts included that begin with it; what is in use or pinned stays.
   *
   * @returns how many tokens of it are forgotten
   */
  forget(text: PrefixText): number {
    return this.#blocks.forget(new TokenList(text.tokenIds), this.rootOf(text));
  }

  /**
   * Writes the full blocks of a text to a file; what of it is not in the prefix cache is computed.
   *
   * @returns how many tokens are in the file
   * @throws {KvSessionError} if this engine has no fingerprint, or there is no full block
   * @throws {RequestError | RequestTooLongError} if the text is wrong
   */
  async save(path: string, text: PrefixText): Promise<number> {
    const format = this.#sessionFormat();
    const blocks = this.#blocks;
    const tokens = new TokenList(text.tokenIds);
    const table = new BlockTable(this.rootOf(text));
    if (tokens.length < blocks.blockSize) {
      throw new KvSessionError(
        `${tokens.length} tokens are too few for a session: expected at least ${blocks.blockSize}`,
      );
    }
    await this.#compute(text);
    const match = new PrefixMatch();
    blocks.findPrefix(tokens, tokens.length, match, table.root);
    const numWanted = match.numBlocks - match.numPooled;
    const hasRoom = numWanted <= blocks.numFreeBlocks - match.numFree;
    if (!hasRoom || blocks.adopt(table, match) === 0) {
      throw new KvSessionError('the prefix cache has no room for the text: try again');
    }
    this.#numHolding++;
    try {
      const tokenIds = tokens.ids.slice(0, table.numBlocks * blocks.blockSize);
      await writeKvSession(path, format, tokenIds, (index, into) =>
        this.#runner.readBlock(table.blockId(index), into),
      );
      return tokenIds.length;
    } finally {
      this.#release(table);
    }
  }

  /**
   * Brings a saved text back into the prefix cache, as much of it as there are free blocks for.
   *
   * @returns the tokens that are cached now
   * @throws {KvSessionError} if the file is damaged or of another model
   */
  async restore(path: string, share: PrefixShare = {}): Promise<Int32Array> {
    const blocks = this.#blocks;
    const table = new BlockTable(this.rootOf(share));
    const format = this.#sessionFormat();
    this.#numHolding++;
    try {
      return await readKvSession(path, format, (index, tokenIds, bytes) => {
        const numTokens = (index + 1) * blocks.blockSize;
        const isFine = blocks.numFreeBlocks > this.#numReserved();
        if (!isFine || !blocks.grow(table, numTokens)) return false;
        this.#runner.writeBlock(table.blockId(index), bytes);
        blocks.seal(table, { ids: tokenIds, length: tokenIds.length }, numTokens);
        return true;
      });
    } finally {
      this.#release(table);
    }
  }

  #sessionFormat(): KvSessionFormat {
    if (this.#fingerprint === null) {
      throw new KvSessionError('this engine was not told which model it runs: sessions are off');
    }
    const { limits, kvBlockBytes } = this.#runner;
    return {
      fingerprint: this.#fingerprint(),
      blockSize: limits.blockSize,
      blockBytes: kvBlockBytes,
    };
  }
}
