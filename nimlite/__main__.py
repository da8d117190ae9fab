from nimlite.cli import main

main()
