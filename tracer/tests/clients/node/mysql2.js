'use strict';
// mysql2 with its own pool, on a MySQL server. What leaks asks as callers of its events do, without
// the layers of promises between: those of a whole call are more than the first stack that is
// copied.

const { once } = require('node:events');
const mysql = require('mysql2/promise');
const { abandon, abort, failing, giveUpOn, leaveOutside, pace, versions } = require('./loop');

function open(options) {
  const { MYSQL_HOST: host, MYSQL_TCP_PORT: port } = process.env;
  const where = { host, port: Number(port), user: 'root', database: 'information_schema' };
  return mysql.createPool({ ...where, connectionLimit: 40, ...options });
}

async function forgottenRelease(pool) {
  const { connection } = await pool.getConnection();
  await once(connection.query('select 1'), 'end');
}

async function earlyReturn(pool, id) {
  const { connection } = await pool.getConnection();
  const query = connection.query('select seq from (select 1 seq) numbers where seq = ?', [id]);
  const rows = [];
  query.on('result', (row) => rows.push(row));
  await once(query, 'end');
  if (rows.length === 0) {
    return null;
  }
  connection.release();
  return rows[0].seq;
}

async function throwBeforeRelease(pool, text) {
  const { connection } = await pool.getConnection();
  const query = connection.query('select ? as document', [text]);
  const [row] = await once(query, 'result');
  const document = JSON.parse(row.document);
  connection.release();
  return document;
}

async function neverUsed(pool) {
  await pool.getConnection();
}

async function transactionNeverEnded(pool) {
  const { connection } = await pool.getConnection();
  await once(connection.query('begin'), 'end');
  await once(connection.query('select 1'), 'end');
}

async function heldWhileOutside(pool, answer) {
  const { connection } = await pool.getConnection();
  await once(connection.query('select 1'), 'end');
  await answer();
  connection.release();
}

async function abortedTask(pool, signal) {
  const { connection } = await pool.getConnection();
  await once(connection.query('select 1'), 'end');
  signal.throwIfAborted();
  connection.release();
}

async function newPoolPerRequest(options) {
  await open(options).query('select 1');
}

async function query(pool) {
  await pool.query('select 1');
}

async function released(pool) {
  const connection = await pool.getConnection();
  try {
    // Prepares a statement, runs it, and closes it: the server answers the first two.
    await connection.execute('select 1');
    connection.unprepare('select 1');
  } finally {
    connection.release();
  }
}

async function transaction(pool) {
  const connection = await pool.getConnection();
  try {
    await connection.beginTransaction();
    await connection.query('select 1');
    await connection.commit();
  } finally {
    connection.release();
  }
}

module.exports = (options) => {
  const pool = open(options);
  return {
    versions: versions('mysql2'),
    healthy: () => query(pool),
    leaks: {
      forgotten: () => forgottenRelease(pool),
      early_return: async () => {
        await earlyReturn(pool, 1);
        await pace();
        await earlyReturn(pool, 1000);
      },
      throw: async () => {
        await throwBeforeRelease(pool, '{"fine": true}');
        await pace();
        await failing(throwBeforeRelease(pool, '{"broken": '), SyntaxError);
      },
      never_used: () => neverUsed(pool),
      transaction: () => transactionNeverEnded(pool),
      late: () => giveUpOn((answer) => heldWhileOutside(pool, answer)),
      aborted: () => abort((signal) => abortedTask(pool, signal)),
      outside: () => leaveOutside((answer) => heldWhileOutside(pool, answer)),
      new_pool: () => newPoolPerRequest(options),
    },
    rounds: { released: () => released(pool), transaction: () => transaction(pool) },
    commands: {
      burst: (count) =>
        Promise.all(Array.from({ length: Number(count) }, () => pool.query('select sleep(0.1)'))),
      hold_query: (seconds) => abandon(pool.query('select sleep(?)', [Number(seconds)])),
      keepalive: async (milliseconds) => {
        const connection = await pool.getConnection();
        setInterval(() => connection.ping(), Number(milliseconds));
      },
      advisory_lock: async (key) => {
        const connection = await pool.getConnection();
        await connection.query('select get_lock(?, 1)', [key]);
      },
    },
  };
};
