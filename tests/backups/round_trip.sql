-- Every kind of thing that must come back: types, tables, rules and names.
CREATE EXTENSION hstore; CREATE EXTENSION pg_trgm; CREATE EXTENSION btree_gist; CREATE EXTENSION citext;
CREATE SCHEMA "Großes ""Schema""; --";
COMMENT ON SCHEMA "Großes ""Schema""; --" IS 'a name of everything';
CREATE COLLATION german (provider = icu, locale = 'de-DE-u-ks-level2', deterministic = false);
CREATE TYPE mood AS ENUM ('sad', 'it''s ok', 'happy');
CREATE TYPE pair AS (a int, b text COLLATE "C");
CREATE TYPE float8pair AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE DOMAIN positive AS int CHECK (VALUE > 0) DEFAULT 7;
CREATE DOMAIN isin AS varchar(12) COLLATE "C" NOT NULL CHECK (VALUE ~ '^[A-Z]{2}');
CREATE TABLE types (
  i2 smallint, i4 int, i8 bigint, n numeric, nn numeric(20,5), f4 real, f8 double precision, m money,
  b boolean, c char(5), vc varchar(20), t text, by bytea, bi bit(8), vb bit varying(9),
  d date, ti time, tz time with time zone, ts timestamp, tstz timestamptz(3), iv interval,
  u uuid, j json, jb jsonb, x xml, mac macaddr, mac8 macaddr8, ip inet, ci cidr,
  pt point, ln line, ls lseg, bx box, pa path, po polygon, cc circle,
  tsv tsvector, tsq tsquery, lsn pg_lsn, snap pg_snapshot, o oid, rc regclass, jp jsonpath, nm name, ch "char",
  ir int4range, mr int4multirange, dr daterange, tr tstzrange, nr nummultirange, fr float8pair,
  ia int[], ta text[][], ja jsonb[], ma mood[], pra pair[], mo mood, pr pair, po2 positive, si isin DEFAULT 'XX', h hstore, ct citext,
  tx xid8, ti2 tid);
INSERT INTO types VALUES (
  -32768, 2147483647, -9223372036854775808, 'NaN', 12345.6789, 'Infinity', 1e-308, 12.34,
  true, 'ab', 'varchar é', E'tab\t newline\n back\\slash \\. quote''', '\x00ff27', B'10101010', B'101',
  '4713-01-01 BC', '23:59:59.999999', '12:00:00+05:30', 'infinity', '2026-11-23 12:34:56.789+01', '-1 year 2 mons -3 days 04:05:06.7',
  'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a" : 1, "a":2}', '{"z": [1, null, "\u00e9"]}', '<a>x</a>', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '192.168.0.1/24', '10.0.0.0/8',
  '(1,2)', '{1,2,3}', '[(0,0),(1,1)]', '(1,1),(0,0)', '[(0,0),(1,1)]', '((0,0),(1,1),(1,0))', '<(0,0),2>',
  'a:1A fat:2B', 'fat & (rat | !cat)', '16/B374D848', '10:20:10,14,15', 4294967295, 'pg_class', '$.a[*] ? (@ > 1)', 'a_name', 'x',
  '[1,10)', '{[1,3),[5,7)}', '(,2026-01-01)', '["2026-01-01 00:00+00",)', '{(1.5,2.5]}', '[1.5,2.5)',
  '{1,NULL,3}', '{{a,b},{"c,d",NULL}}', ARRAY['{"k":1}'::jsonb], '{sad,happy}', ARRAY[ROW(1,'x')::pair], 'it''s ok', ROW(NULL,'y'), 5, 'DE0001', 'a=>1, b=>NULL', 'MiXed',
  '123', '(0,1)');
INSERT INTO types (i4) VALUES (NULL);
CREATE TABLE checked (status varchar(10) CHECK (status IN ('new', 'open', 'done')), price numeric CHECK (price BETWEEN 0 AND 10 OR price IS NULL));
INSERT INTO checked VALUES ('new', 1), (NULL, NULL);
CREATE TABLE late (a int); INSERT INTO late VALUES (-1); ALTER TABLE late ADD CONSTRAINT later CHECK (a > 0) NOT VALID;
CREATE TABLE measure (id bigint GENERATED ALWAYS AS IDENTITY (START 100 INCREMENT 5), at timestamptz NOT NULL, v int, twice int GENERATED ALWAYS AS (v * 2) STORED, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE measure_2025 PARTITION OF measure FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY HASH (id);
CREATE TABLE measure_2025_0 PARTITION OF measure_2025 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE measure_2025_1 PARTITION OF measure_2025 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE measure_rest PARTITION OF measure DEFAULT;
CREATE INDEX ON measure (v) INCLUDE (at) WHERE v > 3;
INSERT INTO measure (at, v) SELECT '2025-06-01Z'::timestamptz + n * interval '1 day', n FROM generate_series(1, 500) n;
CREATE TABLE kinds (k text) PARTITION BY LIST (k); CREATE TABLE kinds_a PARTITION OF kinds FOR VALUES IN ('a', NULL); INSERT INTO kinds VALUES ('a'), (NULL);
CREATE TABLE base (id serial PRIMARY KEY, note text DEFAULT 'none'); CREATE TABLE derived (extra int) INHERITS (base);
INSERT INTO base (note) VALUES ('b'); INSERT INTO derived (note, extra) VALUES ('d', 1);
CREATE TABLE hen (id int PRIMARY KEY, egg int); CREATE TABLE egg (id int PRIMARY KEY, hen int REFERENCES hen DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE hen ADD FOREIGN KEY (egg) REFERENCES egg ON DELETE SET NULL; INSERT INTO hen VALUES (1, NULL); INSERT INTO egg VALUES (1, 1); UPDATE hen SET egg = 1;
CREATE TABLE self (id int PRIMARY KEY, parent int REFERENCES self); INSERT INTO self VALUES (2, NULL), (1, 2), (3, 1);
CREATE TABLE rooms (room int, during tstzrange, EXCLUDE USING gist (room WITH =, during WITH &&)); INSERT INTO rooms VALUES (1, '[2026-01-01,2026-01-02)');
CREATE VIEW seen WITH (security_barrier) AS SELECT id, note FROM base WHERE note IN ('b', 'd') WITH CHECK OPTION;
CREATE VIEW seen_again AS SELECT s.*, row_number() OVER (ORDER BY id) FROM seen s;
CREATE MATERIALIZED VIEW totals AS SELECT v % 10 AS digit, count(*) FROM measure GROUP BY 1; CREATE UNIQUE INDEX ON totals (digit);
CREATE MATERIALIZED VIEW of_totals AS SELECT sum(count) FROM totals WITH NO DATA;
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN NEW.note := coalesce(NEW.note, '') || ' $stamped$'; RETURN NEW; END $body$;
CREATE TRIGGER stamped BEFORE UPDATE ON base FOR EACH ROW WHEN (OLD.note IS DISTINCT FROM NEW.note) EXECUTE FUNCTION stamp();
ALTER TABLE base DISABLE TRIGGER stamped;
CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'ddl %', tg_tag; END $$;
CREATE EVENT TRIGGER watch ON ddl_command_start WHEN TAG IN ('DROP TABLE') EXECUTE FUNCTION on_ddl();
CREATE RULE ignore AS ON DELETE TO late DO INSTEAD NOTHING;
CREATE PROCEDURE nothing(INOUT a int) LANGUAGE sql AS 'SELECT a'; CREATE AGGREGATE product(int) (sfunc = int4mul, stype = int, initcond = '1');
CREATE FUNCTION same(pair, pair) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1.a = $2.a'; CREATE OPERATOR === (leftarg = pair, rightarg = pair, function = same); CREATE CAST (mood AS int) WITH INOUT;
CREATE TEXT SEARCH CONFIGURATION plain (COPY = simple); CREATE STATISTICS together (dependencies) ON i2, i4 FROM types;
CREATE TABLE private (owner text, secret text); ALTER TABLE private ENABLE ROW LEVEL SECURITY; ALTER TABLE private FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON private FOR SELECT TO PUBLIC USING (owner = current_user); INSERT INTO private VALUES ('nobody', 'x');
CREATE TABLE "Großes ""Schema""; --"."Tabelle 'ü' \ $1" ("Spalte ""1""" int, "select" text COLLATE german, PRIMARY KEY ("Spalte ""1"""));
INSERT INTO "Großes ""Schema""; --"."Tabelle 'ü' \ $1" VALUES (1, 'Straße'), (2, NULL);
CREATE TABLE empty (); INSERT INTO empty DEFAULT VALUES; CREATE TABLE no_rows (a int, b text);
CREATE UNLOGGED TABLE hasty (a int); INSERT INTO hasty VALUES (1);
CREATE SEQUENCE down INCREMENT -2 MINVALUE -100 MAXVALUE -1 CYCLE CACHE 3; SELECT nextval('down'); CREATE SEQUENCE untouched; CREATE SEQUENCE owned OWNED BY base.note; SELECT setval('owned', 77, false);
SELECT lo_from_bytea(4711, '\x00ff'); SELECT lo_from_bytea(4712, decode(repeat('ab', 300000), 'hex')); COMMENT ON LARGE OBJECT 4711 IS 'large';
COMMENT ON TABLE types IS E'comment with ''quotes''\nand lines'; COMMENT ON COLUMN types.i4 IS 'four'; COMMENT ON CONSTRAINT later ON late IS 'not yet'; COMMENT ON FUNCTION stamp() IS 'fn';
DO $$ DECLARE columns text; BEGIN
  SELECT string_agg(format('c%s %s', n, (array['int', 'text', 'numeric(9,2)'])[1 + n % 3]), ', ') INTO columns FROM generate_series(1, 1500) n;
  EXECUTE 'CREATE TABLE very_wide (' || columns || ')';
  EXECUTE 'INSERT INTO very_wide (c3, c4, c1499) VALUES (1, ''x'', 2)'; END $$;
GRANT SELECT (owner), INSERT ON private TO "rt reader"; GRANT USAGE ON SCHEMA "Großes ""Schema""; --" TO "rt reader" WITH GRANT OPTION; REVOKE EXECUTE ON FUNCTION stamp() FROM PUBLIC; GRANT SELECT ON LARGE OBJECT 4711 TO "rt reader";
ALTER DEFAULT PRIVILEGES FOR ROLE rt_owner GRANT SELECT ON TABLES TO "rt reader"; ALTER TABLE base OWNER TO rt_owner; ALTER SCHEMA "Großes ""Schema""; --" OWNER TO rt_owner;
CREATE PUBLICATION everything FOR ALL TABLES;
ALTER TABLE checked ALTER COLUMN status SET STORAGE EXTERNAL, ALTER COLUMN price SET STATISTICS 500; ALTER TABLE types SET (fillfactor = 80); ALTER TABLE measure REPLICA IDENTITY FULL; CLUSTER base USING base_pkey;
