// Filters, derives and writes JSON lines with DuckDB: node duckdb.cjs IN OUT COLUMNS THREADS
// where COLUMNS is "name TYPE, …". The output has the columns in that order, then weight.
// It prints the time of the query alone, in seconds; node and the engine's library take
// theirs beside it.
const { DuckDBInstance } = require("@duckdb/node-api");

async function main([input, output, columns, threads]) {
  const cols = columns.split(", ").map((c) => c.split(" "));
  const types = cols.map(([name, type]) => `${name}: '${type}'`).join(", ");
  const instance = await DuckDBInstance.create(":memory:", { threads });
  const db = await instance.connect();
  const start = process.hrtime.bigint();
  await db.run(
    `COPY (SELECT ${cols.map(([name]) => name).join(", ")}, delay * distance AS weight ` +
      `FROM read_json('${input}', format = 'newline_delimited', ignore_errors = true, columns = {${types}}) ` +
      `WHERE delay > 15) TO '${output}' (FORMAT json)`,
  );
  console.log(Number(process.hrtime.bigint() - start) / 1e9);
}

main(process.argv.slice(2)).catch((e) => {
  console.error(String(e));
  process.exit(1);
});
