"""Allegro for longtake: importing this registers the family of ``AllegroPipeline`` folders."""

from longtake_allegro.family import AllegroFamily as AllegroFamily
