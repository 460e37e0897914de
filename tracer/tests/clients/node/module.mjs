// An ECMAScript module: V8 knows it by a URL.

export async function leakedByModule(pool) {
  const client = await pool.connect();
  await client.query('select 4'); // LEAK-LINE module
}
