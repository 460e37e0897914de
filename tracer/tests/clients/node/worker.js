'use strict';
// A thread with a pool of its own.

const { parentPort } = require('node:worker_threads');
const Pool = require('pg-pool');
const healthy = require('./healthy');

const pool = new Pool({ max: 60 });

async function leakedByWorker() {
  const client = await pool.connect();
  await client.query('select 5'); // LEAK-LINE worker
}

parentPort.on('message', async (task) => {
  if (task === 'leak') await leakedByWorker();
  await healthy.tryFinally(pool);
  parentPort.postMessage('done');
});
