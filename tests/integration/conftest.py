"""What all integration tests share: each subject's fixtures are in a file of their own."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

pytest_plugins = ["host_fixtures"]
