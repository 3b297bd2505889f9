/** Entry of a compute thread: goes into native code and stays there until the team is dissolved. */
import { workerData } from 'node:worker_threads';
import { callerOfAddresses } from '../targets/x64/loader.ts';
import type { WorkerStart } from './thread-team.ts';

const { driver, control, scratch } = workerData as WorkerStart;
callerOfAddresses()(driver, control, scratch);
