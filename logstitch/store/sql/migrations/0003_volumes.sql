-- Volumes: 32 closed segments that, together, know for each word and each facet in which of them it is. Their blocks are
-- in word_blocks under 2^30 and the volume's number.
CREATE TABLE volumes (
    project_no  integer NOT NULL,
    volume      integer NOT NULL,                     -- segment / 32; here from its first segment with words on
    words_ready boolean NOT NULL DEFAULT false,       -- word_blocks holds the whole volume
    PRIMARY KEY (project_no, volume)
);
CREATE INDEX volumes_without_words ON volumes (project_no, volume) WHERE NOT words_ready;

-- The blocks of segments now hold the facets, too. All are built again.
TRUNCATE word_blocks;
UPDATE segments SET words_ready = false WHERE words_ready;
