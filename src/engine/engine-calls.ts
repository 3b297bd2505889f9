/**
 * What is asked of an engine beside requests, as plain data that may cross a process border, and how an engine answers it.
 */

import { type GrammarInput, type GrammarSpec, parseGrammarSpec } from '../grammar/grammar-spec.ts';
import type { EngineCore } from './engine-core.ts';
import type { PrefixShare, PrefixText } from './prefix-keeper.ts';

export type EngineCall =
  | { readonly name: 'pinPrefix'; readonly text: PrefixText }
  | { readonly name: 'saveSession'; readonly path: string; readonly text: PrefixText }
  | { readonly name: 'restoreSession'; readonly path: string; readonly share: PrefixShare }
  | { readonly name: 'forgetPrefix'; readonly text: PrefixText }
  | { readonly name: 'compileGrammar'; readonly grammar: GrammarSpec };

/** By call: what it gives. */
export interface EngineCallResults {
  pinPrefix: number;
  saveSession: number;
  restoreSession: Int32Array;
  forgetPrefix: number;
  compileGrammar: null;
}

/** Calls as functions; an engine of any kind has them. */
export interface EngineCalls {
  /**
   * Computes a text and keeps its full KV blocks in the prefix cache for good: until a request that would not fit otherwise needs the room.
   *
   * @returns how many of its tokens are pinned
   * @throws {RequestError | RequestTooLongError} if it is wrong, or pins would hold more than half of the pool
   */
  pinPrefix(text: PrefixText): Promise<number>;
  /**
   * Writes the keys and values of a text's full KV blocks to a file, on the engine's machine; what of it is not in the prefix cache is computed.
   *
   * @returns how many tokens are in it
   * @throws {KvSessionError} if the engine was not told which model it runs, or there is no full block
   * @throws {RequestError | RequestTooLongError} if the text is wrong
   */
  saveSession(path: string, text: PrefixText): Promise<number>;
  /**
   * Brings a saved text back into the prefix cache, as much of it as there are free blocks for.
   *
   * @returns the tokens that are cached now
   * @throws {KvSessionError} if the file is damaged or of another model
   */
  restoreSession(path: string, share?: PrefixShare): Promise<Int32Array>;
  /**
   * Lets go of what the prefix cache has of a text; what is in use or pinned stays.
   *
   * @returns how many of its tokens are forgotten
   */
  forgetPrefix(text: PrefixText): Promise<number>;
  /**
   * Finds out whether a grammar can be used, and keeps it ready for requests.
   *
   * @throws {GrammarError} if it has not the shape of one; any error with code `invalid_grammar` if it cannot be compiled
   * @throws {RequestError} if the model's tokens have no text
   */
  compileGrammar(grammar: GrammarInput): Promise<void>;
}

/** The calls as functions over something that carries them. */
export function engineCalls(
  carry: (call: EngineCall) => Promise<EngineCallResults[EngineCall['name']]>,
): EngineCalls {
  const call = <N extends EngineCall['name']>(
    request: EngineCall & { readonly name: N },
  ): Promise<EngineCallResults[N]> => carry(request) as Promise<EngineCallResults[N]>;
  return {
    pinPrefix: ({ tokenIds, ...share }) =>
      call({ name: 'pinPrefix', text: { ...share, tokenIds: Int32Array.from(tokenIds) } }),
    saveSession: (path, { tokenIds, ...share }) =>
      call({ name: 'saveSession', path, text: { ...share, tokenIds: Int32Array.from(tokenIds) } }),
    restoreSession: (path, share = {}) => call({ name: 'restoreSession', path, share }),
    forgetPrefix: ({ tokenIds, ...share }) =>
      call({ name: 'forgetPrefix', text: { ...share, tokenIds: Int32Array.from(tokenIds) } }),
    compileGrammar: async (grammar) => {
      await call({ name: 'compileGrammar', grammar: parseGrammarSpec(grammar) });
    },
  };
}

/** @param wake makes the engine take steps, which some calls wait for */
export function answerCall(
  core: EngineCore,
  wake: () => void,
  call: EngineCall,
): Promise<EngineCallResults[EngineCall['name']]> {
  switch (call.name) {
    case 'pinPrefix': {
      const pinned = core.prefixes.pin(call.text);
      wake();
      return pinned;
    }
    case 'saveSession': {
      const saved = core.prefixes.save(call.path, call.text);
      wake();
      return saved;
    }
    case 'restoreSession':
      return core.prefixes.restore(call.path, call.share);
    case 'forgetPrefix':
      return Promise.resolve(core.prefixes.forget(call.text));
    case 'compileGrammar':
      return core.compile(call.grammar).then(() => null);
    default:
      call satisfies never;
      throw new Error('unknown call');
  }
}
