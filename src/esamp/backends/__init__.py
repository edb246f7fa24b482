"""Engines that esamp decodes on. No backend knows another."""
