/**
 * The one error of the x64 assembler. An operand it refuses is a bug of the kernel writer, so it
 * is an InternalError. Knows nothing of instructions.
 */
import { InternalError } from '../../platform/errors.ts';

/** An instruction cannot be encoded with the operands given. */
export class AssemblerError extends InternalError {
  /** The mnemonic being assembled, `''` for labels and directives. */
  readonly mnemonic: string;

  constructor(mnemonic: string, message: string) {
    super(mnemonic === '' ? message : `${mnemonic}: ${message}`);
    this.mnemonic = mnemonic;
  }
}
