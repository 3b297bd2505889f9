/** Where a real model lies that tests run, if it is here. Fetches it with HASTEN_REQUIRE_MODELS=1, and then fails where it cannot. */
import { hubEnvironmentFrom } from '../src/hub/environment.ts';
import { ModelUnavailableError } from '../src/hub/errors.ts';
import { resolveModel } from '../src/hub/resolve.ts';

export type FoundModel =
  | { readonly file: string; readonly skip: false }
  /** Why the tests are skipped. */
  | { readonly file: null; readonly skip: string };

export async function findModelFile(alias: string): Promise<FoundModel> {
  const isRequired = process.env.HASTEN_REQUIRE_MODELS === '1';
  try {
    const env = hubEnvironmentFrom(process.env);
    const { path } = await resolveModel(alias, { env, offline: !isRequired });
    return { file: path, skip: false };
  } catch (error) {
    if (isRequired || !(error instanceof ModelUnavailableError)) throw error;
    const reason = error.attempts[0]?.reason ?? error.message;
    return { file: null, skip: `${reason}; HASTEN_REQUIRE_MODELS=1 fetches it` };
  }
}
