/**
 * The model behind the API, from "still loading" to "failed", under the names that clients may call it by.
 */
import type { TextModel } from '../app/text-model.ts';
import { ApiError } from './errors.ts';

export type ModelState =
  | { readonly kind: 'loading'; readonly phase: string }
  | { readonly kind: 'ready'; readonly model: TextModel; readonly names: readonly string[] }
  | { readonly kind: 'failed'; readonly reason: string }
  | { readonly kind: 'closing' };

export class ServedModel {
  #state: ModelState = { kind: 'loading', phase: 'starting' };
  #outage: string | null = null;
  readonly createdS = Math.floor(Date.now() / 1000);

  get state(): ModelState {
    return this.#state;
  }

  setState(state: ModelState): void {
    this.#state = state;
  }

  /** Why requests wait although the model is there, in words; null when they do not. */
  get outage(): string | null {
    return this.#outage;
  }

  setOutage(reason: string | null): void {
    this.#outage = reason;
  }

  /** The names that are served, the first being what answers carry; none before the model is there. */
  get names(): readonly string[] {
    return this.#state.kind === 'ready' ? this.#state.names : [];
  }

  /**
   * The model, for a request that asks for `name` (none: the one there is).
   * @throws {ApiError} 503 while there is none, 404 if it has another name
   */
  use(name: string | undefined): { model: TextModel; name: string } {
    const state = this.#state;
    switch (state.kind) {
      case 'ready': {
        const served = name ?? state.names[0] ?? state.model.name;
        if (state.names.includes(served)) return { model: state.model, name: served };
        throw new ApiError(
          404,
          `The model "${served}" does not exist here; served is "${state.names.join('", "')}"`,
          { param: 'model', code: 'model_not_found' },
        );
      }
      case 'loading':
        throw unavailable(`the model is loading (${state.phase})`);
      case 'failed':
        throw unavailable(`the model is not running: ${state.reason}`);
      case 'closing':
        throw unavailable('the server is shutting down');
      default:
        return state satisfies never;
    }
  }
}

function unavailable(message: string): ApiError {
  return new ApiError(503, message, { type: 'server_error', code: 'model_unavailable' });
}
